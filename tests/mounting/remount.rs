//! mount -o remount.

use crate::lab::run;

#[test]
fn remount_ro_refuses_writes_keeps_what_was_written_and_goes_back() {
    run(r#"
echo "$T/store $T/m nacrefs key_file=$T/key,noauto,commit=3600,flush=3600 0 0" > /etc/fstab
mount m 2>/dev/null; echo before > m/f
exec 5> m/open; fails 6 mount -o remount,ro m; says 'busy'; touch m/f; exec 5>&-
mount -o remount,ro m; findmnt -no OPTIONS m | grep -q '^ro,'; [ "$(cat m/f)" = before ]
"$N" status m | grep -q 'read only .*remount,ro'; "$N" doctor m --key-file key | grep 'writing .*remount,ro' || fail doctor
for what in "touch m/new" "rm m/f" "mkdir m/d" "truncate -s 0 m/f" "setfattr -n user.x -v y m/f"; do fails 1 $what; says 'Read-only file system'; done
mount -o remount,ro m
# All that was written is durable.
pid=$(pgrep -f "$T/store $T/m "); kill -9 $pid; gone kill -0 $pid 2>/dev/null; mount m 2>err || fail "$(cat err)"; [ "$(cat m/f)" = before ]
mount -o remount,ro $T/m; mount -o remount,rw $T/m; echo after > m/f; findmnt -no OPTIONS m | grep -q '^rw,'
# Flags of the mount alone; what the daemon was given stays.
mount -o remount,noexec,nosuid,nodev,noatime m; for o in noexec nosuid nodev noatime; do findmnt -no OPTIONS m | grep -q "$o" || fail $o; done
cp /bin/true m/true; fails 126 m/true; mount -o remount,exec,suid,dev,relatime $T/store $T/m; m/true
findmnt -no OPTIONS m | grep -q relatime; ! findmnt -no OPTIONS m | grep -q nosuid
# What it cannot change is said, and what fstab says anew each time is not.
said=$(mount -o remount,allow_other,sync=store m 2>&1); says 'cannot change this: '; says allow_other; says sync=store; [ "$(wc -l <<< "$said")" = 1 ]
said=$(mount -o remount,ro m 2>&1); [ -z "$said" ] || fail "$said"; mount -o remount,rw m
umount m; fails 7 "$N" mount -o remount,ro store m
# A drive that was opened read-only stays so until it is unmounted.
mount -o ro m 2>/dev/null; fails 1 touch m/x; fails 2 mount -o remount,rw m; says 'unmount it, and mount it without `ro`'; [ "$(wc -l <<< "$said")" = 1 ]; mount -o remount,ro m; umount m
"#);
}

#[test]
fn pages_that_the_kernel_kept_are_durable_after_remount_ro() {
    run(r#"
mount -t nacrefs store m -o key_file=key,writeback,commit=3600,flush=3600 2>/dev/null
head -c 3M /dev/urandom | tee copy > m/f; mount -o remount,ro m
pid=$(pgrep -f "$T/store $T/m "); kill -9 $pid; gone kill -0 $pid 2>/dev/null
mount -t nacrefs store m -o key_file=key 2>/dev/null; cmp copy m/f; umount m
"#);
}
