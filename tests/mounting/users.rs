//! Ordinary users, by fstab's `user` and by themselves.

use crate::lab::run;

/// Users that every Debian has: nobody has the drive, daemon would like to.
const USERS: &str = r#"
mkdir home home/m home/state; chmod 700 home/state; cp key home/key; chmod 600 home/key
chown -R 65534:65534 home
as() { local id=$1; shift; setpriv --reuid $id --regid $id --clear-groups env -i PATH=/usr/bin:/bin LC_ALL=C HOME=$T/home "$@"; }
as 65534 "$N" init $T/home/store --key-file $T/home/key >/dev/null
M=$T/home/m
line() { echo "$T/home/store $M nacrefs key_file=$T/home/key,state_dir=$T/home/state,$1 0 0" > /etc/fstab; }
"#;

#[test]
fn an_ordinary_user_mounts_and_unmounts_by_fstab_and_nobody_else_does() {
    run(&(USERS.to_owned()
        + r#"
line noauto,user,noatime
as 65534 mount $M 2>/dev/null; as 65534 bash -c "echo mine > $M/f"; [ "$(stat -f -c %l home)" -gt 0 ]
findmnt -no SOURCE,FSTYPE,OPTIONS $M > is; grep -q "^$T/home/store fuse.nacrefs " is; for o in nosuid nodev noexec noatime user_id=65534; do grep -q $o is || fail "$o: $(cat is)"; done
# Mounted once, and seen by nobody else.
fails 6 as 65534 mount $M; mount -a; [ "$(findmnt -rno TARGET | grep -cx "$M")" = 1 ]
fails 2 as 1 ls $M; says 'Permission denied'; fails 2 ls $M; rc=0; said=$(as 1 umount $M 2>&1) || rc=$?; [ $rc != 0 ]; mounted $M
# The only one of theirs is meant where none is named.
mount -t nacrefs store m -o key_file=key,state_dir=$T/state 2>/dev/null; (cd /; as 65534 "$N" sync; as 65534 "$N" log) >/dev/null; umount m
# In use, then unmounted and stored.
as 65534 bash -c "exec 5< $M/f; sleep 60" & sleep .3; rc=0; said=$(as 65534 umount $M 2>&1) || rc=$?; [ $rc = 6 ] || fail "$rc $said"; says busy; mounted $M; pkill -P $! ; kill $! 2>/dev/null || true; wait $! || true
as 65534 umount $M; ! mounted $M; [ ! -e home/state/control ]
# Without a line that says `user`, mount(8) gives root's rights up and goes on: to a drive of one's own that is enough.
line noauto; as 65534 mount $M 2>/dev/null; as 65534 umount $M; : > /etc/fstab
as 65534 mount -t nacrefs $T/home/store $M -o key_file=$T/home/key,state_dir=$T/home/state 2>/dev/null; as 65534 umount $M
# Root's key and root's directory are not for them.
rc=0; said=$(as 65534 mount -t nacrefs $T/store $M -o key_file=$T/key,state_dir=$T/home/state 2>&1) || rc=$?; [ $rc != 0 ]; ! mounted $M
# Dead: cleared by mounting, or unmounting, without root's help.
line noauto,users
kill9() { local pid; pid=$(pgrep -f "$T/home/store $M "); kill -9 $pid; gone kill -0 $pid 2>/dev/null; }
as 65534 mount $M 2>/dev/null; kill9; as 65534 mount $M 2>/dev/null; [ "$(as 65534 cat $M/f)" = mine ]
kill9; as 65534 umount $M; ! mounted $M; as 65534 mount $M 2>/dev/null
# Lazily and by force, which for a user is the same.
as 65534 umount -l $M; ! mounted $M; gone test -e home/state/control; as 65534 mount $M 2>/dev/null; as 65534 umount -f $M; ! mounted $M; gone test -e home/state/control
# Root unmounts it, though the kernel does not let root in: stored first, by path from within and by name.
as 65534 mount $M 2>/dev/null; as 65534 bash -c "echo last > $M/f"; (cd home; umount m); ! mounted $M; [ ! -e home/state/control ]
as 65534 mount $M 2>/dev/null; "$N" status $M >/dev/null; kill9; "$N" umount $M; ! mounted $M
rm -r home/state/*; as 65534 mount $M 2>/dev/null; [ "$(as 65534 cat $M/f)" = last ]; as 65534 umount $M
# A user cannot keep root waiting for ever: not with the lock of his own drive's umount, nor with that of utab.
as 65534 mount $M 2>/dev/null; as 65534 flock home/state sleep 613 >/dev/null 2>&1 || true & comes held home/state; timeout 60 "$N" umount $M; ! mounted $M; pkill -f '^sleep 613'
mkdir other; touch /run/mount/utab.lock; chmod 644 /run/mount/utab.lock; as 65534 flock -s /run/mount/utab.lock sleep 614 >/dev/null 2>&1 || true & comes held /run/mount/utab.lock
timeout 60 mount -t nacrefs store other -o key_file=key 2>/dev/null; timeout 60 "$N" status other >/dev/null; timeout 60 "$N" umount other; ! mounted other; pkill -f '^sleep 614'
"#));
}

#[test]
fn allow_other_works_where_fuse_conf_allows_and_says_so_where_not() {
    run(&(USERS.to_owned()
        + r#"
line noauto,user,allow_other
sed -i '/^user_allow_other/d' /etc/fuse.conf
rc=0; said=$(as 65534 mount $M 2>&1) || rc=$?; [ $rc = 1 ] || fail "$rc $said"; says user_allow_other; says /etc/fuse.conf; ! mounted $M
echo user_allow_other >> /etc/fuse.conf
as 65534 mount $M 2>/dev/null; as 65534 bash -c "echo text > $M/open; umask 077; echo secret > $M/closed"
[ "$(as 1 cat $M/open)" = text ]; fails 1 as 1 cat $M/closed; says 'Permission denied'; fails 1 as 1 touch $M/new
as 65534 umount $M
# Root needs no leave.
sed -i '/^user_allow_other/d' /etc/fuse.conf; mount -t nacrefs store m -o key_file=key,allow_other 2>/dev/null; chmod 755 m; echo all > m/f; [ "$(as 1 cat m/f)" = all ]
# To whom it is nobody's business, the doctor says so, and nothing else.
: > /etc/fstab
said=$(as 1 "$N" doctor m 2>&1) || fail "$said"; says "the drive is another user's"; [[ $said != *FAIL* && $said != *unmount* ]] || fail "$said"; umount m
# A suid program would have the rights of an owner who never gave them.
mount -t nacrefs store m -o key_file=key,allow_other,uid=0 2>/dev/null; findmnt -no OPTIONS m | grep -q nosuid; umount m
# Links that are not to be followed are not, also when it takes a dead mount's place; a user is told that this is not for him.
follows() { ln -sf f m/l; cat m/l >/dev/null 2>&1; }
mount -t nacrefs store m -o key_file=key,nosymfollow 2>/dev/null; ! follows || fail "$(findmnt m)"
kill -9 $(pgrep -f "$T/store $T/m "); gone cat m/f 2>/dev/null; mount -t nacrefs store m -o key_file=key,nosymfollow 2>/dev/null; ! follows; mount -o remount,symfollow m; follows; umount m
# No remount takes nosuid away where others' files show as one's own.
echo "$T/store $T/m nacrefs key_file=key,uid=0,allow_other 0 0" > /etc/fstab; is_safe() { findmnt -no OPTIONS "$1" | grep nosuid | grep -q "$2" || fail "$2 $(findmnt "$1")"; }
mount -t nacrefs store m -o key_file=key,uid=0,allow_other 2>/dev/null; is_safe m rw; mount -o remount m; is_safe m rw; mount -o remount,ro m; mount -o remount,rw m; is_safe m rw; umount m
# Nor from a user's mount, which root may make read-only.
line noauto,user; as 65534 mount $M 2>/dev/null; is_safe $M nodev; mount -o remount,rw $M; is_safe $M nodev; mount -o remount,ro $M; is_safe $M ro; as 65534 umount $M
"#));
}

/// The doctor used to look where the state would be by default, find nothing there, and call that well.
#[test]
fn the_doctor_finds_the_state_directory_of_a_dead_mount_or_asks_for_it() {
    run(&(USERS.to_owned()
        + r#"
doctor() { said=$(as 65534 "$N" doctor "$@" --key-file $T/home/key 2>&1) || true; }
dead() { pid=$(pgrep -nf "$T/home/store $M "); kill -9 $pid; gone kill -0 $pid 2>/dev/null; }
as 65534 "$N" mount $T/home/store $M --key-file $T/home/key --state-dir $T/home/state >/dev/null 2>&1; dead
doctor $M; says '-     state        cannot tell where'; says 'give --state-dir'; says 'lost its daemon'
doctor $M --state-dir $T/home/state; says "ok    state        $T/home/state"; says 'a dead daemon has left its socket'
# fstab knows it, mounted or not.
line noauto,user; doctor $M; says "ok    state        $T/home/state"; as 65534 "$N" umount $M
doctor $M; says "ok    state        $T/home/state"; says "holds drive"; doctor $T/home/store; says "ok    state        $T/home/state"
# A daemon of root's notes it.
"$N" mount $T/store $T/m --key-file $T/key --state-dir $T/elsewhere >/dev/null 2>&1
pid=$(pgrep -nf "$T/store $T/m "); kill -9 $pid; gone kill -0 $pid 2>/dev/null
said=$(env -u NACREFS_STATE_DIR "$N" doctor $T/m 2>&1) || true; says "ok    state        $T/elsewhere"; says 'lost its daemon'; umount m
"#));
}

/// A first mount that was killed left a default drive that nothing could finish; and a key whose store was away got a new
/// store without a word.
#[test]
fn a_default_drive_that_was_not_finished_is_finished_and_one_that_is_away_is_not_made_anew() {
    run(&(USERS.to_owned()
        + r#"
K=home/.config/nacrefs/key; S=home/.local/share/nacrefs/store
up() { as 65534 "$N" mount $M; }; down() { as 65534 "$N" umount $M; }
# All is made by the first mount, the directory too, but nothing around it.
as 65534 rmdir $M; up >/dev/null; [ "$(as 65534 stat -c %u $M)" = 65534 ]
as 65534 bash -c "echo kept > $M/f"; down; [ -e $K ]; [ ! -e $K.new ]; [ "$(stat -c %a $M)" = 700 ]
fails 2 as 65534 "$N" mount $T/home/x/y; says mkdir; [ ! -e home/x ]; fails 2 as 65534 "$N" mount $T/home/store $T/home/x; says mkdir; [ ! -e home/x ]
cp -a home/.local all; cp -a $K key.kept
restored() { rm -rf home/.local $K $K.new; cp -a all home/.local; cp -a key.kept $K; }
# Killed before the key took its place: the drive is there.
mv $K $K.new; up >/dev/null; [ "$(as 65534 cat $M/f)" = kept ]; down; [ -e $K ]; [ ! -e $K.new ]
# Killed before nacre.json; before there was a version; in the probe; with no more than the key.
restored; mv $K $K.new; rm $S/nacre.json; up >/dev/null; [ "$(as 65534 cat $M/f)" = kept ]; down; [ -e $K ]; [ -e $S/nacre.json ]
restored; mv $K $K.new; rm -r $S/nacre.json $S/realms home/.local/state; up >/dev/null; as 65534 touch $M/new; down; [ -e $K ]
restored; mv $K $K.new; rm -r $S/* home/.local/state; as 65534 mkdir -p $S/probe/0011; as 65534 touch "$S/probe/0011/twice#1" $S/probe/0011/race; up >/dev/null; as 65534 touch $M/new; down; [ -e $K ]
restored; mv $K $K.new; rm -r home/.local; up >/dev/null; as 65534 touch $M/new; down; cmp $K key.kept
# A key that has a drive: its store is away, or empty, as where its disk is not mounted.
restored; mv $S away; fails 7 up; says "$K"; says 'no drive'; says 'mount the disk'; mkdir $S; chown 65534:65534 $S; fails 7 up; says 'no drive'; [ -z "$(ls $S)" ]; ! mounted $M
rmdir $S; mv away $S; up >/dev/null; [ "$(as 65534 cat $M/f)" = kept ]; down
# The key is lost: it is named.
mv $K elsewhere; rc=0; said=$(up 2>&1 </dev/null) || rc=$?; [ $rc = 3 ] || fail "$rc $said"; says "$K"; says backup; mv elsewhere $K
# A drive is not mounted over what it is made of.
fails 2 as 65534 "$N" mount $T/home/store $M --key-file $T/home/key --state-dir $M/state; says 'state directory'; ! mounted $M; [ -z "$(ls $M)" ]
fails 2 as 65534 "$N" mount $T/home/store $M --key-file $T/home/key -o metrics=unix:$M/socket; says 'socket for metrics'; ! mounted $M
# A key file that may not be looked at is a secret that cannot be had, as for every other command.
mkdir -m 700 closed; cp key closed/key; fails 3 as 65534 "$N" mount $T/home/store $M --key-file $T/closed/key; says "$T/closed/key"
# What holds no key is not said to open a drive.
head -c 32 /dev/urandom > home/bad; chown 65534 home/bad; chmod 644 home/bad; fails 3 as 65534 "$N" mount $T/home/store $M --key-file $T/home/bad; [[ $said != *"opens the drive"* && $said != *"others may use"* ]] || fail "$said"
"#));
}
