//! mount(8) and fstab.

use crate::lab::run;

#[test]
fn a_line_with_every_common_option_is_mounted_once_by_mount_a() {
    run(r#"
options=defaults,rw,auto,nouser,nofail,_netdev,x-systemd.automount,x-gvfs-show,X-foo.bar,comment=hi,nosuid,nodev
options+=,noexec,async,noatime,nodiratime,lazytime,iversion,silent,mand,strictatime,noatime,uid=0,gid=root
options+=,key_file=$T/key,commit=1,memory=64M,allow_other,nostrictatime,nomand,owner,group
options+=,acl,user_xattr,discard,errors=remount-ro,pri=5
mkdir "with space"; cp -a store "a store"
cat > /etc/fstab <<F
# a comment
$T/store $T/m nacrefs $options 0 2
file://$T/a%20store $T/with\040space fuse.nacrefs key_file=$T/key,state_dir=$T/state2 0 0
F
mount -a
echo hello > m/file
[ "$(findmnt -no SOURCE,FSTYPE m)" = "$T/store fuse.nacrefs" ]
for o in nosuid nodev noexec noatime nodiratime allow_other; do
    findmnt -no OPTIONS m | tr , '\n' | grep -qx $o || fail "$o: $(findmnt -no OPTIONS m)"
done
echo two > "with space/two"
# What is mounted is known by its source: nothing is mounted twice.
mount -a -v | grep -c 'already mounted' | grep -qx 2
[ "$(findmnt -rno TARGET -t fuse.nacrefs | grep -c "^$T/")" = 2 ]
# And so says who asks for it by name.
fails 6 mount m; says "is mounted on $T/m already"
umount "with space"; mount "$T/with space"; [ "$(cat "with space/two")" = two ]
umount m; umount "with space"
[ -z "$(ls -A m)" ]; mount m; [ "$(cat m/file)" = hello ]
umount $T/m; ! mounted m
! grep -q "$T" /run/mount/utab || fail "$(cat /run/mount/utab)"
"#);
}

#[test]
fn mount_by_hand_by_either_type_with_or_without_our_helper() {
    run(r#"
mount -t nacrefs store m -o key_file=key 2>err; echo 1 > m/f
# mount(8) is silent where all is well; that the key lies on the same disk must be said.
grep -q 'not protected if this disk is stolen' err; [ "$(wc -l < err)" = 1 ]
umount m
mount -t fuse.nacrefs file://$T/store m -o key_file=$T/key 2>/dev/null; [ "$(findmnt -no SOURCE m)" = "file://$T/store" ]; umount m
# A file that was left in the directory is hidden, as everywhere; `nacrefs mount` would rather not.
touch m/left; mount -t nacrefs store m -o key_file=key 2>/dev/null; [ ! -e m/left ]; umount m
fails 2 "$N" mount store m --key-file key; says 'not empty'
# Fake, verbose, sloppy.
mount -f -t nacrefs store m -o key_file=key; ! mounted m
fails 2 mount -t nacrefs store m -o key_file=key,colour=red; says '"colour=red"'; [ "$(wc -l <<< "$said")" = 1 ]
mount -s -t nacrefs store m -o key_file=key,colour=red,context=system_u:object_r:x:s0 2>err; mounted m; umount m
fails 3 mount -t nacrefs store m -o key_file=/no/such; fails 7 mount -t nacrefs /no/such m -o key_file=key
fails 3 setsid mount -t nacrefs store m; says 'no terminal'
# As early at boot as can be: nothing in the environment, nothing open.
env -i /sbin/mount.nacrefs $T/store $T/m -o key_file=$T/key,state_dir=$T/state <&- 2>/dev/null >&-; mounted m; umount m
PATH= /sbin/mount.nacrefs $T/store $T/m -n -o key_file=$T/key 2>/dev/null; umount m
# In another namespace.
unshare --mount --propagation private sleep 60 & other=$!
until [ "$(readlink /proc/$other/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ]; do sleep .05; done
mount -N $other -t nacrefs $T/store $T/m -o key_file=$T/key 2>/dev/null; ! mounted m
nsenter -t $other -m findmnt $T/m >/dev/null; umount -N $other $T/m; kill $other
# Without our helper mount.fuse3 of libfuse runs the nacrefs of PATH, in its own words.
rm /sbin/mount.fuse.nacrefs; mount -t tmpfs none /usr/local; mkdir /usr/local/bin; ln -s "$N" /usr/local/bin/nacrefs
mount -t fuse.nacrefs $T/store m -o key_file=$T/key,nofail,_netdev,noatime 2>/dev/null; mounted m; [ "$(cat m/f)" = 1 ]; umount m
mount -t fuse "nacrefs#$T/store" m -o key_file=$T/key 2>/dev/null; mounted m; umount m
"#);
}

/// Both used to be mounted, one over the other.
#[test]
fn of_two_drives_that_are_mounted_at_one_place_at_once_one_is_refused() {
    run(r#"
"$N" init store2 --key-file key >/dev/null
try() { local rc=0; "$N" mount $1 m --key-file key --state-dir $T/state-$1 >said-$1 2>&1 || rc=$?; echo $rc > rc-$1; }
for round in 1 2 3 4; do
    try store & try store2 & wait
    [ "$(sort rc-store rc-store2 | tr '\n' ' ')" = '0 6 ' ] || fail "$(cat rc-store rc-store2 said-*)"
    [ "$(findmnt -rno TARGET | grep -cx "$T/m")" = 1 ]; "$N" umount m
done
"#);
}

#[test]
fn a_drive_is_not_mounted_over_its_own_store_or_state() {
    run(r#"
mkdir m/in; cp -a store m/in/store
fails 2 "$N" mount m/in/store m --key-file key -o nonempty; says 'the store'; says 'hidden by the mount'; ! mounted m
ln -s $T/m/in link; fails 2 mount -t nacrefs file://$T/link/store m -o key_file=key; says 'hidden'; ! mounted m
fails 2 "$N" mount store m --key-file key --state-dir m/state -o nonempty; says 'the state directory'; ! mounted m; [ ! -e m/state ]
mkdir m/in/m; "$N" mount m/in/store m/in/m --key-file key >/dev/null 2>&1; umount m/in/m
"#);
}

#[test]
fn what_is_written_on_a_synchronous_mount_survives_the_daemon() {
    run(r#"
try() { # option, what the file holds
    mount -t nacrefs store m -o "key_file=key,flush=3600,commit=3600,$1" 2>/dev/null
    mkdir "m/$1"; echo text > "m/$1-file"; kill -9 $(daemon); umount -l m
    mount -t nacrefs store m -o key_file=key 2>/dev/null
    [ -d "m/$1" ] || fail "$1: no directory"; [ -e "m/$1-file" ] || fail "$1: no file"
    # With dirsync the text may be there or not.
    [ -z "$2" ] || [ "$(cat "m/$1-file")" = "$2" ] || fail "$1: $(cat "m/$1-file")"
    umount m
}
daemon() { pgrep -f "store $T/m "; }
try sync text
try dirsync ""
"#);
}

/// The doctor used to look at no key but a given one, or the default drive's: all was well where none was to be had.
#[test]
fn the_doctor_looks_at_the_key_that_a_line_or_a_unit_names() {
    run(r#"
doctor() { rc=0; said=$("$N" doctor "$@" 2>&1) || rc=$?; }
well() { doctor "$1"; says 'opens the drive'; says "$2"; }
echo "$T/store $T/m nacrefs key_file=$T/key 0 0" > /etc/fstab
well m "ok    key file     $T/key"; mount m 2>/dev/null; well m 'not protected if this disk is stolen'; umount m
well m 'not protected'; well store 'not protected'
chmod 644 key; doctor m; [ $rc = 1 ]; says 'can be read by others'; chmod 600 key
mv key away; doctor m; [ $rc = 1 ]; says "cannot look at $T/key"; says 'FAIL  key'
doctor store; [ $rc = 1 ]; doctor m --key-file away; says 'opens the drive'
# A unit's file, with another drive's key.
: > /etc/fstab; mkdir -p /etc/nacrefs/drives; head -c 32 /dev/zero | od -An -tx1 | tr -d ' \n' > other; chmod 600 other
printf 'STORE=%s\nOPTIONS=key_file=%s\n' "$T/store" "$T/other" > /etc/nacrefs/drives/w.conf
doctor store; [ $rc = 1 ]; says 'FAIL  key '; sed -i "s,$T/other,$T/away," /etc/nacrefs/drives/w.conf; well store 'not protected'
rm /etc/nacrefs/drives/w.conf; doctor store; says 'no passphrase or key at hand'; mkdir creds; cp away creds/nacrefs.key
CREDENTIALS_DIRECTORY=$T/creds doctor store; says 'opens the drive'
# A key that is known to nobody but the daemon; and a store that is gone from its place.
mount -t nacrefs store m -o key_file=away 2>/dev/null; doctor m; says 'not protected if this disk is stolen'
mv store its; mkdir store; doctor m; says 'mount the disk that holds it'; says 'not a nacrefs drive'; [[ $said != *'nacrefs init'*'make a drive'* ]]; rmdir store; mv its store; umount m
# A key whose drive was not made is not left behind.
mkdir full; touch full/file; for place in full /proc/none; do ! "$N" init $place --key-file new 2>said; [ ! -e new ] || fail "$(cat said)"; done
"#);
}

/// It looked at nothing that was not mounted, which is when one calls a doctor.
#[test]
fn the_doctor_looks_at_what_the_machine_would_mount() {
    run(r#"
# Whether a mount would succeed, and the doctor says so.
doctor() { rc=0; said=$("$N" doctor "$@" 2>&1) || rc=$?; }
line() { echo "$T/store $1 nacrefs $2 0 0" > /etc/fstab; }
both() { # 1 if a mount fails, and what the doctor says of it
    doctor; [ $rc = "$1" ] || fail "doctor is $rc: $said"; says "$2"; says "file://$T/store"
    doctor m; [ $rc = "$1" ] || fail "doctor m is $rc: $said"; says "$2"
    if mount "$T/m" 2>mount.said </dev/null; then umount "$T/m"; [ "$1" = 0 ] || fail "it mounts: $said"; else [ "$1" = 1 ] || fail "$(cat mount.said)"; fi
}
line "$T/m" key_file=$T/key; both 0 "ok    fstab        the line of $T/m"
line "$T/m" key_file=$T/gone; both 1 "cannot look at $T/gone"
line "$T/m" key_file=$T/key,nosuch=1; both 1 nosuch
rm /sbin/mount.nacrefs; line "$T/m" key_file=$T/key; both 1 'mount.nacrefs is missing'; "$HELPERS" "$N"
rmdir m; doctor; says "$T/m"; says missing; mkdir m
line "$T/m" rw; doctor; [ $rc = 0 ]; says 'warn  fstab'; says 'nobody can be asked at boot'
line "$T/m" noauto; doctor; says 'ok    fstab'
echo "gopher://x $T/m nacrefs key_file=$T/key 0 0" > /etc/fstab; doctor; [ $rc = 1 ]; says gopher
# An ordinary user is told of what he may mount.
line "$T/m" key_file=$T/gone; said=$(cd /; setpriv --reuid 1000 --clear-groups env HOME=/nonexistent "$N" doctor 2>&1) || true; [[ $said != *gone* ]]
# The file of a unit, written as systemd reads it.
: > /etc/fstab; mkdir -p /etc/nacrefs/drives; conf=/etc/nacrefs/drives/w.conf
printf 'STORE= %s\nDIR=%s\nOPTIONS= ro,\\\nkey_file=%s\n' "$T/store" "$T/m" "$T/key" > $conf
for dir in '' m; do doctor $dir; [ $rc = 0 ] || fail "$said"; says "ok    unit         $conf"; says 'opens the drive'; done
echo "NACREFS_PASSPHRASE_FILE=$T/missing" >> $conf; sed -i /key_file/d $conf; sed -i 's/ro,.*/ro/' $conf
doctor; [ $rc = 1 ]; says "$T/missing"
sed -i /PASSPHRASE/d $conf; doctor; says 'no credential nacrefs.w.passphrase'; rm $conf
# The key of a mounted drive is gone: the next mount fails, and this is the last time to make another.
mount -t nacrefs store m -o key_file=key 2>/dev/null; doctor; [ $rc = 0 ]; says 'opens the drive'
"$N" status --json m | grep -q "\"key_file\":\"$T/key\""
mv key away; doctor; [ $rc = 1 ]; says "cannot look at $T/key"
head -c 32 /dev/zero | od -An -tx1 | tr -d ' \n' > key; chmod 600 key; doctor m; [ $rc = 1 ]; says 'FAIL  key '
mv away key; doctor; [ $rc = 0 ]; umount m
"#);
}
