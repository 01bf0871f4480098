//! "Transport endpoint is not connected": the daemon was killed.

use crate::lab::run;

#[test]
fn a_dead_mount_is_cleared_by_whoever_mounts_or_unmounts() {
    run(r#"
echo "$T/store $T/m nacrefs key_file=$T/key,noauto 0 0" > /etc/fstab
kill9() { local pid; pid=$(pgrep -f "$T/store $T/m "); kill -9 $pid; gone kill -0 $pid 2>/dev/null; fails 2 ls m; says 'endpoint'; }
mount m 2>/dev/null; echo 1 > m/f; sync m/f
# By mounting again.
kill9; mount m 2>/dev/null; [ "$(cat m/f)" = 1 ]; [ "$(findmnt -rno TARGET | grep -cx "$T/m")" = 1 ]
kill9; mount -t nacrefs store m -o key_file=key 2>/dev/null; [ "$(cat m/f)" = 1 ]
kill9; "$N" mount $T/store $T/m --key-file key >/dev/null 2>&1; [ "$(cat m/f)" = 1 ]; kill9
# By unmounting, which has nothing to store.
umount $T/m; ! mounted m; mount m 2>/dev/null; kill9; umount m; ! mounted m; mount m 2>/dev/null; kill9; umount -l m; ! mounted m
mount m 2>/dev/null; kill9; umount -f m; ! mounted m; mount m 2>/dev/null; kill9; "$N" umount m; ! mounted m
# Also where somebody still sits in it, and `mount -a` finds it mounted.
mount m 2>/dev/null; (cd m; exec sleep 60) & kill9; umount m; ! mounted m; mount m 2>/dev/null; [ "$(cat m/f)" = 1 ]; kill %1; umount m
# Only where it is dead.
mount m 2>/dev/null; "$N" umount --dead m; mounted m; kill9; "$N" umount --dead m; ! mounted m; "$N" umount --dead m
# Nothing is left of any of them for umount(8) to find.
! grep -q "$T" /run/mount/utab || fail "$(cat /run/mount/utab)"
"#);
}

#[test]
fn a_daemon_that_hangs_is_unmounted_by_force_or_lazily() {
    run(r#"
k() { mount -t nacrefs store m -o key_file=key 2>/dev/null; pid=$(pgrep -f "$T/store $T/m "); }
k; echo 1 > m/f; kill -STOP $pid; timeout 5 umount -l m; ! mounted m; kill -CONT $pid; gone test -e state/control
k; [ "$(cat m/f)" = 1 ]; echo 2 > m/f; sync m/f; exec 5< m/f; kill -STOP $pid; timeout 20 umount -f m; ! mounted m
exec 5<&-; kill -CONT $pid; gone test -e state/control; k; [ "$(cat m/f)" = 2 ]; umount m
"#);
}
