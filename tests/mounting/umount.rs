//! umount(8): stored when it returns, or still mounted.

use crate::lab::run;

#[test]
fn umount_returns_when_everything_is_in_the_store_however_it_is_called() {
    run(r#"
head -c 20M /dev/urandom > data
k() { mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; }
mkdir sub; ln -s m link
n=0
for how in "umount $T/m" "umount m" "umount -c $T/m" "umount -r $T/m" "umount link" "$N umount m" "umount.fuse.nacrefs m"; do
    k; cp data m/data$((n += 1)); cp -a m/data$n sub/; $how || fail "$how"
    # The daemon is gone, and the store alone has it all.
    [ ! -e state/control ] || fail "$how: the daemon is there"
    rm -r state; k; cmp data m/data$n || fail "$how"; rm m/data$n; umount m
done
# `umount -a` too, and by a relative path from within.
k; echo a > m/a; (cd m/.. && umount ./m); rm -r state; k; [ "$(cat m/a)" = a ]; umount -a -t fuse.nacrefs; ! mounted m
# Without helper it returns at once, and the daemon stores the rest.
k; echo i > m/i; umount -i m; ! mounted m; gone test -e state/control; rm -r state; k; [ "$(cat m/i)" = i ]
# Who never stops looking does not keep it mounted.
(while stat m/i; do :; done) >/dev/null 2>&1 & echo j > m/j; umount m; wait; rm -r state; k; [ "$(cat m/j)" = j ]; umount m
"#);
}

#[test]
fn umount_fails_and_the_drive_stays_where_the_store_is_away() {
    run(r#"
mount -t nacrefs store m -o key_file=key,commit=3600,timeout=5 2>/dev/null
echo precious > m/file
mv store away
fails 4 umount $T/m; says 'still mounted'; says 'out of reach'
mounted m; [ "$(cat m/file)" = precious ]; echo more > m/more
# By force it goes, and what is not stored stays in the journal.
umount -f m; ! mounted m; [ ! -e state/control ]
mv away store
mount -t nacrefs store m -o key_file=key 2>/dev/null; [ "$(cat m/file m/more)" = $'precious\nmore' ]; umount m
"#);
}

/// The next mount used to find the drive in use, and what was to stay in the journal was stored all the same.
#[test]
fn umount_by_force_returns_when_the_daemon_is_gone_and_stores_nothing() {
    run(r#"
k() { mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; }
for n in 1 2 3; do k; echo $n > m/f$n; umount.nacrefs -f m; done
mv state aside; k; [ ! -e m/f1 ]; [ ! -e m/f3 ]; umount m; rm -r state; mv aside state
k; [ "$(cat m/f1 m/f2 m/f3)" = $'1\n2\n3' ]; umount m
"#);
}

/// A store that does not answer stands for a network file system that is gone: no error tells of it.
#[test]
fn nobody_waits_for_ever_for_a_store_that_does_not_answer() {
    run(r#"
mkdir below; "$N" init below-store --key-file key >/dev/null
"$N" mount $T/below-store $T/below --key-file key --state-dir $T/below-state -o commit=3600 >/dev/null 2>&1
below=$(pgrep -f "$T/below-store $T/below ")
(sleep 150; kill -CONT $below) >/dev/null 2>&1 & guard=$!
mkdir below/store; "$N" init below/store --key-file key >/dev/null
mount -t nacrefs below/store m -o key_file=key,commit=3600 2>/dev/null; echo precious > m/f
kill -STOP $below; start=$SECONDS
(rc=0; timeout 140 umount m >umount.said 2>&1 || rc=$?; echo $rc > umount.rc) & asked=$!
# All that needs no store is told, and then that it does not answer.
rc=0; said=$(timeout 60 "$N" doctor m --key-file key 2>&1) || rc=$?; [ $rc = 1 ] || fail "doctor $rc: $said"
says '/dev/fuse'; says 'FAIL  answers'; [ $((SECONDS - start)) -lt 40 ] || fail "doctor took $((SECONDS - start)) s"
while [ $((SECONDS - start)) -lt 34 ]; do sleep 1; done
"$N" status m > status.said; grep -q 'out of reach since' status.said || fail "$(cat status.said)"
wait $asked; [ "$(cat umount.rc)" = 4 ] || fail "umount: $(cat umount.rc umount.said)"
grep -q 'still mounted: the store is out of reach' umount.said || fail "$(cat umount.said)"
[ $((SECONDS - start)) -lt 90 ]; mounted m; echo more > m/g
kill -CONT $below; kill $guard; timeout 60 umount m
"$N" status below | grep -q 'version' ; mount -t nacrefs below/store m -o key_file=key 2>/dev/null; [ "$(cat m/f m/g)" = $'precious\nmore' ]; umount m; umount below
"#);
}

#[test]
fn umount_says_how_much_is_left_when_it_takes_long() {
    run(r#"
mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null
head -c 4M /dev/urandom > m/data
# A store that answers slowly: its directory is held up by a frozen file system below it.
mkdir -p slow; truncate -s 200M disk; mkfs.ext4 -q disk
umount m; mount -o loop disk slow; cp -a store slow/
mount -t nacrefs slow/store m -o key_file=key,commit=3600,state_dir=$T/state3 2>/dev/null
head -c 4M /dev/urandom > m/more; cp m/more .
fsfreeze -f slow; (sleep 6; fsfreeze -u slow) &
start=$SECONDS; umount m 2>err || { cat err; fail umount; }
[ $((SECONDS - start)) -ge 4 ]; grep -Eq "^nacrefs: $T/m: .* left to store, after [0-9]+ s$" err || fail "$(cat err)"
wait; mount -t nacrefs slow/store m -o key_file=key,state_dir=$T/state4 2>/dev/null; cmp more m/more; umount m; umount slow
"#);
}

/// By its absolute path, and as root, libmount looks for our helper only where utab has an entry.
#[test]
fn umount_of_the_last_bind_mount_returns_when_everything_is_in_the_store() {
    run(r#"
k() { mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; }
k; mkdir m/sub b c; mount --bind m b; umount $T/m; mount --bind b/sub c; umount $T/b; ! mounted b; echo 2 > c/f
mv store away; fails 4 umount $T/c; says 'still mounted: the store is out of reach'; mounted c
mv away store; umount $T/c; ! mounted c; [ ! -e state/control ]; rm -r state; k; [ "$(cat m/sub/f)" = 2 ]
# The first place goes lazily, or by force; what stays, waits.
for how in -l -f; do
    mount --bind m b; umount $how $T/m; echo $how > b/f; umount $T/b; [ ! -e state/control ]; rm -r state; k
    [ "$(cat m/f)" = $how ]
done
umount $T/m; ! grep nacrefs /run/mount/utab
# A daemon that ends takes all of its entries along.
k; mount --bind m b; umount $T/m; grep "TARGET=$T/b " /run/mount/utab; umount -i $T/b; gone test -e state/control; gone grep -q nacrefs /run/mount/utab
"#);
}

/// Who unmounted a copy of the mount, in a mount namespace of its own, took away the note by which umount(8) finds our
/// helper: the drive's own `umount` returned 0 with nothing stored then.
#[test]
fn a_copy_that_is_unmounted_in_another_namespace_leaves_umount_as_it_was() {
    run(r#"
k() { mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; }
for how in umount "$N umount" "$N umount -l" "umount -l" "umount -i"; do
    k; copies=
    # Several at once.
    for _ in 1 2 3; do
        unshare --mount --propagation private bash -ec "$how $T/m; ! mountpoint -q $T/m" 2>/dev/null & copies+=" $!"
    done
    for copy in $copies; do wait $copy; done
    mounted m; comes grep -q "TARGET=$T/m " /run/mount/utab || fail "$how: utab"
    echo "$how" > m/f; mv store away; fails 4 umount $T/m; says 'still mounted: the store is out of reach'; mounted m
    mv away store; umount $T/m; [ ! -e state/control ]; rm -r state; k; [ "$(cat m/f)" = "$how" ]; umount $T/m
    ! grep nacrefs /run/mount/utab || fail "$how: utab at the end"
done
"#);
}

/// A daemon that ended took along the note of another drive, which was mounted in its place by then.
#[test]
fn umount_waits_where_another_drive_was_mounted_before_and_where_a_drive_has_been_moved() {
    run(r#"
k() { mount -t nacrefs $1 $2 -o key_file=key,commit=3600,state_dir=$T/state-$1 2>/dev/null; }
"$N" init --key-file key other >/dev/null
waits() { # what is mounted there, where
    echo "$1" > $2/f; comes grep -q "TARGET=$T/$2 " /run/mount/utab || fail "no entry of $2"
    mv $1 away; fails 4 umount $T/$2; says 'still mounted: the store is out of reach'; mounted $2
    mv away $1; umount $T/$2; ! mounted $2; [ ! -e state-$1/control ]
}
mkdir p b; mount --bind p p; mount --make-private p; mkdir p/x p/y
# Unmounted lazily while a file is open, which is closed when the other one is there.
k store p/x; exec 5> p/x/open; umount -l p/x; k other p/x; exec 5>&-; comes [ ! -e state-store/control ]; waits other p/x
# Something else was mounted over it and unmounted again: umount(8) takes the last entry of a place, whoever's it is.
k store p/x; mount -t tmpfs none p/x; umount $T/p/x; mount --bind p/x p/x; umount $T/p/x; umount --fake $T/p/x; waits store p/x
# Moved away, and unmounted there.
k store p/x; mount --move p/x p/y; k other p/x; waits store p/y; waits other p/x
# The directory that it is in was bound elsewhere later.
k store p/x; mount --rbind p b; umount -i $T/p/x; waits store b/x; umount b p
! grep nacrefs /run/mount/utab || fail "utab at the end"
"#);
}

/// `--local` is what one types when an `umount` waits for a store that does not answer.
#[test]
fn umount_local_does_not_wait_for_an_umount_that_does() {
    run(r#"
mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; head -c 60000000 /dev/urandom > m/f; sync m/f
"$N" umount m >said 2>&1 & pid=$!; comes held state; "$N" umount --local m 2>said2; ! grep -q waiting said2 || fail "$(cat said2)"; ! mounted m
rc=0; wait $pid || rc=$?; [ $rc != 0 ] || fail "it was stored already"
mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; [ "$(stat -c %s m/f)" = 60000000 ]; umount m
"#);
}

/// Each took the mark of the other (MNT_EXPIRE) for nobody's, or the other's place for one that stays: one returned 0
/// with nothing stored.
#[test]
fn of_several_that_unmount_at_once_none_does_so_before_all_is_stored() {
    run(r#"
mkdir b; mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null
round() { # what each of them runs
    local pids= how; rm -f go; echo $RANDOM > m/f; cp m/f .; mv store away
    for how; do (until [ -e go ]; do :; done; rc=0; $how || rc=$?; echo "$how: $rc" >> done) 2>/dev/null & pids+=" $!"; done
    rm -f done; touch go; wait $pids; ! grep -q ' 0$' done || fail "$(cat done)"
    mounted m || fail "$*: unmounted"; mv away store
}
for n in 1 2 3 4; do
    round "$N umount m" "$N umount m"; round "umount m" "umount $T/m" "umount m"
done
# Of two places one may go without the store, not both.
for n in 1 2 3 4; do for how in umount "$N umount"; do
    mount --bind m b; echo $n > m/f; rm -f go; mv store away
    for place in m b; do (until [ -e go ]; do :; done; $how $T/$place || true) 2>/dev/null & done; touch go; wait
    mounted m || mounted b || fail "both gone"
    mv away store; ! mounted b || umount b; ! mounted m || umount m
    rm -rf state; mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; [ "$(cat m/f)" = $n ] || fail "$how: $n"
done; done
umount m
"#);
}

/// The kernel tells a process of another PID namespace as 0: nothing could be asked of a drive from a container.
#[test]
fn a_drive_can_be_asked_and_unmounted_from_another_pid_namespace() {
    run(r#"
mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; echo 1 > m/f
cat > inside <<'EOF'
"$1" status $2 >/dev/null; "$1" sync $2; "$1" log $2 >/dev/null; [ "$("$1" cat $2/f)" = 1 ]
"$1" doctor $2 --key-file key > found || { cat found; exit 1; }; grep -q 'lock .*not to be seen from here' found || { cat found; exit 1; }
echo 2 > $2/f; umount $PWD/$2
EOF
unshare --pid --fork --mount-proc bash -euxo pipefail inside "$N" m || fail "in the container"
mounted m; mv store away; echo 3 > m/f; comes grep -q "TARGET=$T/m " /run/mount/utab; fails 4 umount $T/m; mounted m; mv away store; umount $T/m
"#);
}

/// A frozen file system holds a thread of the daemon in the kernel, where nothing can end it.
#[test]
fn umount_local_says_at_once_what_it_waits_for() {
    run(r#"
mkdir slow; truncate -s 300M disk; mkfs.ext4 -q disk; mount -o loop disk slow; cp -a store slow/
mount -t nacrefs slow/store m -o key_file=key,commit=1 2>/dev/null; pid=$(pgrep -f "$T/slow/store $T/m ")
fsfreeze -f slow; (sleep 20; fsfreeze -u slow) & thaw=$!
echo precious > m/f; sync m/f; sleep 3
("$N" umount --local m 2>said; echo $? >rc) & asked=$!
for _ in $(seq 80); do [ -s said ] && break; sleep .1; done; ! mounted m
grep -q "m is unmounted; waiting for its daemon to end: process $pid waits for a disk" said || fail "$(cat said)"
[ ! -e rc ]; kill -0 $thaw; wait $asked; [ "$(cat rc)" = 0 ] || fail "$(cat rc said)"; wait
mount -t nacrefs slow/store m -o key_file=key 2>/dev/null; [ "$(cat m/f)" = precious ]; umount m; umount slow
"#);
}

/// The kernel takes a twin along where its directory is bound elsewhere (systemd makes `/` shared): `umount` used to take
/// it for a place where the drive stays, and returned 0 with nothing stored.
#[test]
fn umount_stores_first_where_the_parent_directory_is_bound_elsewhere() {
    run(r#"
mkdir s alt; mount --bind s s; mount --make-shared s; mkdir s/g
k() { mount -t nacrefs store s/g -o key_file=key,commit=3600 2>/dev/null; }
# What was written is in the store when all places are gone; where it is away, they stay.
goes() { # how, by which place
    local what=$RANDOM; echo $what > s/g/f; mv store away
    fails 4 $1 $T/$2; says 'still mounted'; mounted s/g; mounted alt/g; [ "$(cat alt/g/f)" = $what ]
    mv away store; $1 $T/$2; ! mounted s/g; ! mounted alt/g; [ ! -e state/control ]
    ! grep nacrefs /run/mount/utab || fail "utab"
    rm -r state; k; [ "$(cat s/g/f)" = $what ] || fail "$1 $2"
}
k; umount $T/s/g
# Bound before: of a peer, by either path; of a slave, by the master's.
for how in umount "$N umount"; do for place in s/g alt/g; do
    mount --bind s alt; k; goes "$how" $place; umount $T/s/g; umount alt
done; done
mount --bind s alt; mount --make-slave alt; k; goes umount s/g
# By its own path a slave goes alone.
echo slave > s/g/f; mv store away; umount $T/alt/g; ! mounted alt/g; mounted s/g; mv away store; umount $T/s/g; umount alt
# Bound after.
k; mount --rbind s alt; goes umount s/g; umount $T/s/g; umount -R alt
k; mount --rbind s alt; mount --make-rslave alt; goes "$N umount" s/g; umount $T/s/g; umount -R alt
# By force, too, it returns when the daemon is gone; and nothing is left of a daemon that was killed.
mount --bind s alt; k; echo forced > s/g/f; umount -f s/g; ! mounted alt/g; [ ! -e state/control ]; k
pid=$(pgrep -f "$T/store $T/s/g "); kill -9 $pid; gone kill -0 $pid 2>/dev/null; umount $T/s/g; ! mounted alt/g; ! grep nacrefs /run/mount/utab
k; [ "$(cat s/g/f)" = forced ]
# One with something mounted inside is not taken along: the drive stays there.
mkdir s/g/in; mount --make-private alt/g; mount -t tmpfs none alt/g/in; timeout 20 umount $T/s/g; ! mounted s/g; mounted alt/g
umount alt/g/in; echo last > alt/g/f; umount $T/alt/g; [ ! -e state/control ]; rm -r state; k; [ "$(cat s/g/f)" = last ]; umount $T/s/g
"#);
}
