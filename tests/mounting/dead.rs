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
mount m 2>/dev/null; (cd m; exec sleep 60) & until [ "$(readlink /proc/$!/cwd)" = "$T/m" ]; do sleep .05; done; kill9; umount m; ! mounted m; mount m 2>/dev/null; [ "$(cat m/f)" = 1 ]; kill %1; umount m
# Only where it is dead.
mount m 2>/dev/null; "$N" umount --dead m; mounted m; kill9; "$N" umount --dead m; ! mounted m; "$N" umount --dead m
# Nothing is left of any of them for umount(8) to find.
! grep -q "$T" /run/mount/utab || fail "$(cat /run/mount/utab)"
"#);
}

/// The kernel takes along what is mounted inside a dead mount; nobody was told.
#[test]
fn what_was_mounted_inside_a_dead_mount_is_named_when_it_is_cleared() {
    run(r#"
k() { mount -t nacrefs store m -o key_file=key; mkdir -p m/in; mount -t tmpfs none m/in; pid=$(pgrep -f "$T/store $T/m "); kill -9 $pid; gone kill -0 $pid 2>/dev/null; }
k; "$N" umount m 2>said; grep -q "unmounted along with the dead mount at $T/m, to be mounted again: $T/m/in" said || fail "$(cat said)"
k; mount -t nacrefs store m -o key_file=key; cat $(find -name log) > told; grep -q "to be mounted again: $T/m/in" told || fail "$(cat told)"
! mounted m/in; umount m
"#);
}

/// The dead mount used to go first: for some milliseconds programs wrote, in the clear, into the directory below it,
/// where nobody has seen it since.
#[test]
fn nobody_finds_the_bare_directory_while_a_dead_mount_is_replaced() {
    run(r#"
k() { "$N" mount $T/store $T/m --key-file $T/key -o commit=3600,$1 >/dev/null 2>err || fail "$(cat err)"; }
# The daemon, not its supervisor, is the one that answers.
pid() { python3 -c 'import os; print(os.getxattr("m", "nacre.pid").decode())' 2>/dev/null; }
kill9() { local p; p=$(pid); kill -9 $p; gone kill -0 $p 2>/dev/null; }
cat > write.py <<'END'
import os
n = 0
while not os.path.exists("enough"):
    try:
        os.close(os.open(f"m/private{n}", os.O_CREAT | os.O_WRONLY))
        n += 1
    except OSError:
        pass
END
for how in off on; do
    k restart=$how; rm -f enough; python3 write.py & comes test -e m/private0
    for n in 1 2 3; do kill9; [ $how = on ] || k restart=off; comes pid >/dev/null; done
    touch enough; wait; "$N" umount m
    said=$(ls -A m | head -3); [ -z "$said" ] || fail "in the clear, with restart=$how: $said"
done
# Of several that are stacked too.
k restart=off; mkdir n; mount --bind m n; mount --bind n m; kill9; umount -l n; k restart=off; pid >/dev/null; [ "$(findmnt -rno TARGET | grep -cx "$T/m")" = 1 ]; umount m
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

/// A unit whose DIR was another drive's used to clear the dead mount of that, and programs wrote into the wrong drive.
/// `mount --move` stacks drives: the lower one was asked by its path, where the upper one answers, and to mount the upper
/// one again failed when its dead mount was gone already.
#[test]
fn of_two_drives_at_one_place_only_the_upper_is_asked_and_it_comes_back_where_it_was() {
    run(r#"
mount --make-private /; mkdir up lower; "$N" init other --key-file key >/dev/null
"$N" mount store m --key-file key >/dev/null 2>&1; "$N" mount $T/other $T/up --key-file key --state-dir state2 >/dev/null 2>&1
echo lower > m/f; echo upper > up/f; sync up/f m/f; mount --move up m; [ "$(cat m/f)" = upper ]
fails 6 "$N" status; says "$T/store, mounted on $T/m, lies below another mount"; says "$T/other"
kill -9 $(pgrep -f "$T/other $T/up "); comes fails 2 ls m
"$N" mount other m --key-file key --state-dir state2 >/dev/null 2>&1; [ "$(cat m/f)" = upper ]; umount m; [ "$(cat m/f)" = lower ]
umount m; ! mounted m
"#);
}

#[test]
fn the_dead_mount_of_another_drive_is_left_to_it() {
    run(r#"
"$N" init other --key-file key >/dev/null; mkdir sub
k() { mount -t nacrefs $1 m -o key_file=key 2>/dev/null; pid=$(pgrep -f " $T/m "); }
kill9() { kill -9 $pid; gone kill -0 $pid 2>/dev/null; fails 2 ls m; says endpoint; }
k $T/store; echo 1 > m/f; sync m/f; kill9
for how in "$N mount $T/other $T/m --key-file $T/key" "mount -t nacrefs $T/other $T/m -o key_file=$T/key"; do
    NACREFS_STATE_DIR=$T/state2 fails 6 $how; says "another drive, $T/store, is on $T/m"; says "\`nacrefs umount $T/m\` clears it"
    fails 2 ls m; says endpoint
done
# Nor does a unit's stop clear it.
"$N" umount --dead --store $T/other m; fails 2 ls m; says endpoint
# It is found by every name of its store.
ln -s store link
for name in $T/link $T/sub/../store file://$T/store file://$T/link; do k $name; [ "$(cat m/f)" = 1 ] || fail $name; kill9; done
"$N" umount --dead --store $T/link m; ! mounted m; k $T/store; kill9; umount $T/m; NACREFS_STATE_DIR=$T/state2 k other; umount m
"#);
}

/// The daemon goes on with the mount, in a namespace that only it is in; `doctor` said that it would end by itself.
#[test]
fn a_drive_in_a_mount_namespace_that_nobody_uses_is_told_from_one_that_is_in_use() {
    run(r#"
unshare --mount sh -c 'mount -t nacrefs store m -o key_file=key,commit=3600,restart=on 2>/dev/null; echo 1 > m/f; touch ready; exec sleep 60' & sleeper=$!
gone test ! -e ready; ! mounted m; pid=$( ("$N" doctor store --key-file key || true) | sed -n 's/^warn  lock .*process \([0-9]*\) serves.*leave it alone.*/\1/p')
[ -n "$pid" ] || fail "$("$N" doctor store --key-file key)"
fails 6 "$N" mount store m --key-file key; says "process $pid holds its state directory"
kill $sleeper; wait $sleeper || true
said=$("$N" doctor store --key-file key) || true; says "no other process is in"; says "\`kill $pid\` stores everything and ends it"
kill $pid; gone kill -0 $pid 2>/dev/null; rm -r state; mount -t nacrefs store m -o key_file=key 2>/dev/null; [ "$(cat m/f)" = 1 ]; umount m
"#);
}

#[test]
fn a_bind_mount_of_a_drive_that_was_mounted_again_is_told_how_it_comes_back() {
    run(r#"
mount -t nacrefs store m -o key_file=key,restart=on 2>/dev/null; mkdir m/sub b; echo 1 > m/sub/f; sync m/sub/f; mount --bind m/sub b
kill -9 $("$N" status m --json | sed 's/.*"pid":\([0-9]*\).*/\1/'); gone test ! -e m/sub/f
fails 2 ls b; says endpoint; fails 1 "$N" doctor b --key-file key
says "\`nacrefs umount $T/b\` clears it; then \`mount --bind $T/m/sub $T/b\`"
"$N" umount b; mount --bind $T/m/sub $T/b; [ "$(cat b/f)" = 1 ]; umount b; umount m
"#);
}
