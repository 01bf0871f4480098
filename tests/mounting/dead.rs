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

/// `mount` used to find the dying daemon's mount alive, or its state directory in use.
#[test]
fn a_mount_at_once_after_a_kill_waits_until_the_daemon_is_gone() {
    run(r#"
k() { "$N" mount $T/store $T/m --key-file $T/key -o commit=3600 >/dev/null 2>err || fail "$(cat err)"; pid=$(pgrep -nf "$T/store $T/m "); }
k; for n in 1 2 3 4 5; do echo $n > m/f; sync m/f; kill -9 $pid; k; [ "$(cat m/f)" = $n ]; done
# It ends while it is asked whether it lives.
kill -STOP $pid; (sleep 1; kill -9 $pid) & k; [ "$(cat m/f)" = 5 ]; kill -9 $pid; umount m; ! mounted m
# It holds its state directory a while longer than its mount; another process holds it for good.
exec 9> state/lock; flock 9; (sleep 1; flock -u 9) & k; umount m
flock 9; fails 6 "$N" mount $T/store $T/m --key-file $T/key; says 'mounted already'; exec 9>&-
# A daemon that answers is not waited for.
k; mkdir n; start=$(date +%s%N); fails 6 "$N" mount $T/store $T/n --key-file $T/key; [ $(($(date +%s%N) - start)) -lt 2500000000 ]; umount m
"#);
}

#[test]
fn nothing_waits_for_ever_for_a_daemon_that_is_stopped() {
    run(r#"
mount -t nacrefs store m -o key_file=key 2>/dev/null; pid=$(pgrep -f "$T/store $T/m "); mkdir -p m/a/b; echo 1 > m/a/b/f
echo 3 > /proc/sys/vm/drop_caches; kill -STOP $pid
short() { fails 1 timeout 20 "$@"; says 'does not answer'; }
for where in m m/a/b/f m/a/none; do short "$N" status $where; short "$N" doctor $where --key-file key; says "FAIL  mount"; says "\`kill -CONT $pid\` lets it go on"; done
(cd m; short "$N" status); short "$N" umount --local m; short "$N" umount m; short "$N" sync m; mounted m
# It goes on as if nothing had been.
kill -CONT $pid; [ "$(cat m/a/b/f)" = 1 ]; kill -STOP $pid; timeout 20 "$N" umount -l m; ! mounted m; kill -CONT $pid; gone test -e state/control
mount -t nacrefs store m -o key_file=key 2>/dev/null; [ "$(cat m/a/b/f)" = 1 ]
pid=$(pgrep -f "$T/store $T/m "); kill -STOP $pid; timeout 20 "$N" umount -f m; ! mounted m; kill -CONT $pid; gone test -e state/control
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

/// Who removed the socket was told that the daemon is starting or ending, and to kill it without saying which.
#[test]
fn a_drive_whose_socket_or_state_directory_is_gone_says_so_and_what_helps() {
    run(r#"
k() { mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; pid=$(pgrep -f "$T/store $T/m "); }
gone_is_told() {
    for c in status umount "umount --local" sync; do
        fails 1 timeout 20 "$N" $c m; says "control socket $T/state/control is gone"; says "\`kill $pid\` stores everything and unmounts"
    done
    mounted m; fails 1 timeout 60 "$N" doctor m --key-file key; says "FAIL  mount"; says "kill $pid"
}
k; echo 1 > m/f; rm state/control; gone_is_told; kill $pid; gone mounted m; gone kill -0 $pid 2>/dev/null
rm -r state; k; [ "$(cat m/f)" = 1 ]
echo 2 > m/f; mv state moved; gone_is_told; kill $pid; gone mounted m; gone kill -0 $pid 2>/dev/null
rm -rf state moved; k; [ "$(cat m/f)" = 2 ]; umount m
"#);
}
