//! A mount that is in use, mounted elsewhere too, or has others inside; and the tools that look at mounts.

use crate::lab::run;

#[test]
fn a_busy_drive_stays_mounted_and_who_holds_it_is_named() {
    run(r#"
k() { mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; }
k; mkdir m/d; (cd m/d; exec sleep 60) & sitter=$!
until [ "$(readlink /proc/$sitter/exe)" = "$(readlink -f "$(command -v sleep)")" ]; do sleep .05; done
fails 6 umount $T/m; says "busy"; says "in use by sleep[$sitter]"; echo more > m/d/f
# Those who ask are not named, and do not hold it.
for how in umount "$N umount" "umount.fuse.nacrefs"; do fails 6 $how m; says "in use by sleep[$sitter]"; [[ $said != *mount[* && $said != *nacrefs[* ]] || fail "$said"; done
# In the middle of it: read-only, at least.
umount -r m; findmnt -no OPTIONS m | grep -q '^ro,'; fails 1 touch m/x; says 'Read-only'; mount -o remount,rw m; touch m/x
# Lazily: out of sight at once, working for who is inside, stored when they leave.
umount -l $T/m; ! mounted m; [ "$(cat /proc/$sitter/cwd/f)" = more ]; echo late > /proc/$sitter/cwd/late
kill $sitter; wait $sitter || true; gone test -e state/control; rm -r state; k; [ "$(cat m/d/late)" = late ]
(cd m/d; exec "$N" umount $T/m); ! mounted m; k
# By force: cut off.
exec 5< m/d/f; umount -f m; ! mounted m; fails 1 cat <&5; exec 5<&-; [ ! -e state/control ]
"#);
}

/// `umount` used to wait two minutes for a daemon that had been detached from one of two mounts at the same place.
#[test]
fn a_bind_mount_over_itself_goes_first() {
    run(r#"
mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; echo 1 > m/f; mount --bind m m
timeout 20 umount m; mounted m; [ "$(cat m/f)" = 1 ]; timeout 20 umount m; ! mounted m; [ ! -e state/control ]
rm -r state; mount -t nacrefs store m -o key_file=key 2>/dev/null; [ "$(cat m/f)" = 1 ]; umount m
"#);
}

/// What was on top of the place at the end of the umount used to be taken away, whatever it was.
#[test]
fn what_is_mounted_over_a_drive_or_where_it_was_while_it_is_stored_stays() {
    run(r#"
mkdir n; k() { mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; head -c 90000000 /dev/urandom > m/f; }
for how in "$N umount $T/m" "umount $T/m"; do
    k; $how >said 2>&1 & pid=$!; comes held state; mount -t tmpfs over m; echo theirs > m/theirs
    rc=0; wait $pid || rc=$?; [ $rc = 6 ] || fail "$how: $rc $(cat said)"; [ "$(cat m/theirs)" = theirs ] || fail "$how: $(cat said)"
    umount -i m; [ "$(stat -c %s m/f)" = 90000000 ]; umount m
done
k; "$N" umount m >said 2>&1 & pid=$!; comes held state; mount --move m n
rc=0; wait $pid || rc=$?; [ $rc = 6 ] || fail "$rc $(cat said)"; grep -q "moved from $T/m to $T/n" said || fail "$(cat said)"; umount n; ! mounted n
"#);
}

/// It was said that files were open, and nobody was told that his mount had gone.
#[test]
fn what_is_mounted_inside_a_drive_that_is_told_to_end_is_named() {
    run(r#"
mount -t nacrefs store m -o key_file=key 2>/dev/null; mkdir m/in; mount -t tmpfs inside m/in; pid=$(pgrep -f "$T/store $T/m ")
kill -TERM $pid; gone kill -0 $pid 2>/dev/null; grep -q "unmounted along with the drive at $T/m, to be mounted again: $T/m/in" state/log || fail "$(cat state/log)"; ! grep -q 'close what is open' state/log
"#);
}

/// Told to end, a daemon used to serve on for ever, and to say that files were open.
#[test]
fn a_daemon_that_is_told_to_end_ends_though_something_is_mounted_over_it() {
    run(r#"
k() { mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; pid=$(pgrep -f "$T/store $T/m "); }
k; echo 1 > m/f; mount -t tmpfs over m; kill -TERM $pid; gone kill -0 $pid 2>/dev/null
grep -q 'something else is mounted over it' state/log; ! grep -q 'files are open' state/log
# It has stored everything, and the next mount clears what it has left.
umount m; fails 2 ls m; says 'endpoint'; rm -r state; k; [ "$(cat m/f)" = 1 ]
# What goes in time is not in the way.
echo 2 > m/f; mount -t tmpfs over m; kill -TERM $pid; sleep 2; umount m; gone kill -0 $pid 2>/dev/null; ! mounted m
rm -r state; k; [ "$(cat m/f)" = 2 ]; umount m
"#);
}

#[test]
fn bind_mounts_moves_and_mounts_inside_behave_as_elsewhere() {
    run(r#"
k() { mount -t nacrefs store m -o key_file=key,commit=3600 2>/dev/null; }
k; mkdir m/sub m/usb b n; echo 1 > m/sub/f
# A bind mount of a part goes alone, whichever goes first; the last one stores.
mount --bind m/sub b; [ "$(cat b/f)" = 1 ]; umount $T/b; ! mounted b; mounted m; [ "$(cat m/sub/f)" = 1 ]
mount --bind m/sub b; umount m; ! mounted m; echo 2 > b/f; "$N" status b >/dev/null; umount b
[ ! -e state/control ]; rm -r state; k; [ "$(cat m/sub/f)" = 2 ]
# Moved: found, unmounted and stored all the same, and ended by a signal as well.
mount --move m n; ! mounted m; "$N" status --json n | grep -qF "\"mount\":\"$T/n\"" || fail "$("$N" status n)"; echo 3 > n/sub/f; umount n; rm -r state; k; [ "$(cat m/sub/f)" = 3 ]
mount --move m n; mount --bind n/sub b; echo 4 > n/sub/f; pkill -TERM -f "$T/store $T/m "; gone test -e state/control; ! mounted n; ! mounted b
k; [ "$(cat m/sub/f)" = 4 ]
# Something mounted inside keeps it busy, and -R takes both.
mount -t tmpfs none m/usb; fails 6 umount m; says "mounted on $T/m/usb"; umount -R m; ! mounted m; ! mounted m/usb
[ ! -e state/control ]
"#);
}

#[test]
fn the_tools_that_look_at_mounts_see_a_file_system_like_others() {
    run(r#"
mount -t nacrefs store m -o key_file=key 2>/dev/null
head -c 1M /dev/urandom > m/f
[ "$(findmnt -no TARGET -S $T/store)" = $T/m ]; [ "$(findmnt -no SOURCE -T m/f)" = $T/store ]
[ "$(df --output=source,target m/f | tail -1 | tr -s ' ')" = "$T/store $T/m" ]
[ "$(df --output=size -B1 m | tail -1)" -gt 0 ]; [ "$(df --output=avail -B1 m | tail -1)" -gt 0 ]; df -h m >/dev/null
[ "$(df --output=itotal m | tail -1)" -gt 0 ]; [ "$(df --output=iavail m | tail -1)" -gt 0 ]; df -i m >/dev/null
[ "$(stat -f -c %T m)" = fuseblk ] || [ "$(stat -f -c %T m)" = fuse ]; [ "$(stat -f -c %l m)" = 255 ]; [ "$(stat -f -c %b m)" -gt 0 ]
[ "$(stat -c %m m/f)" = $T/m ]; mountpoint -q m; lsblk >/dev/null
exec 5< m/f
[[ " $(fuser -m m 2>/dev/null) " == *" $$ "* ]]; [[ " $(fuser m/f 2>/dev/null) " == *" $$ "* ]]; lsof -t $T/m | grep -qx $$
exec 5<&-
umount m; fails 1 fuser -m m/f
"#);
}
