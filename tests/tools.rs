//! The tools that people use, on a real mount.

mod common;
use common::TestDrive;

/// Makes `$T/tree`: a source tree of more than 10,000 files, once for all tests.
const TREE: &str = r#"
tree=/var/tmp/nacre-test-tree
exec 9>/var/tmp/nacre-test-tree.lock; flock 9
if ! [ -e $tree.done ]; then
  rm -rf $tree; mkdir -p $tree
  tar -C $tree --strip-components=1 -xf /usr/src/linux-source-6.1.tar.xz --wildcards '*/fs' '*/include' '*/Documentation' '*/lib'
  touch $tree.done
fi
[ $(find $tree -type f | wc -l) -gt 10000 ]
"#;

#[test]
fn a_source_tree_goes_in_by_tar_and_compares_equal() {
    let mut d = TestDrive::new();
    d.sh(TREE);
    d.sh("tar -C /var/tmp/nacre-test-tree -cf - . | tar -xpf - && tar -C /var/tmp/nacre-test-tree -cf - . | tar --compare -f -");
    d.remount();
    d.sh("tar -C /var/tmp/nacre-test-tree -cf - . | tar --compare -f -");
    d.sh("rm -rf ./* && [ -z \"$(ls -A)\" ]");
}

#[test]
fn git_works() {
    let mut d = TestDrive::new();
    d.sh(r#"
        git config --global user.email a@b; git config --global user.name n; git config --global init.defaultBranch main
        mkdir r && cd r && git init -q
        for i in $(seq 200); do mkdir -p d$((i%10)); seq $i $((i+300)) > d$((i%10))/f$i; done
        git add . && git commit -qm one
        for i in $(seq 20); do echo more >> d$((i%10))/f$i; git commit -qam "c$i"; done
        git fsck --full --strict && git gc -q && git status --porcelain | wc -l | grep -qx 0
        cd .. && git clone -q r r2 && diff -r --exclude=.git r r2"#);
    d.move_to_a_new_machine();
    d.sh("cd r && git fsck --full && git status --porcelain | wc -l | grep -qx 0 && git log --oneline | wc -l | grep -qx 21");
}

#[test]
fn sqlite_works_in_both_journal_modes() {
    let mut d = TestDrive::new();
    for mode in ["DELETE", "WAL"] {
        d.sh(&format!(
            r#"sqlite3 {mode}.db "PRAGMA journal_mode={mode}; CREATE TABLE t(a INTEGER PRIMARY KEY, b);"
               for i in $(seq 60); do echo "BEGIN; INSERT INTO t(b) SELECT randomblob(300) FROM generate_series(1,20); UPDATE t SET b='x'||$i WHERE a%7=$((i%7)); COMMIT;"; done | sqlite3 {mode}.db
               [ "$(sqlite3 {mode}.db 'PRAGMA integrity_check; SELECT count(*) FROM t;' | tr '\n' ' ')" = "ok 1200 " ]"#
        ));
    }
    d.remount();
    for mode in ["DELETE", "WAL"] {
        d.sh(&format!(r#"[ "$(sqlite3 {mode}.db 'PRAGMA integrity_check;')" = ok ]"#));
    }
}

#[test]
fn rsync_in_place_twice_moves_nothing_the_second_time() {
    let d = TestDrive::new();
    d.sh(r#"
        mkdir -p $T/src/sub; cd $T/src
        head -c 3000000 /dev/urandom > big; echo hi > sub/small; ln big sub/hard; ln -s ../big sub/soft
        setfattr -n user.note -v hello sub/small; setfacl -m u:1000:rw sub/small; mkfifo fifo; truncate -s 10M sparse
        rsync -aHAX --inplace $T/src/ $MNT/dst/
        rsync -aHAXi --inplace $T/src/ $MNT/dst/ > $T/second; ! [ -s $T/second ]
        printf x | dd of=big bs=1 seek=1500000 conv=notrunc status=none; touch -d '+10 seconds' big
        rsync -aHAX --inplace $T/src/ $MNT/dst/ && cmp big $MNT/dst/big"#);
}

#[test]
fn cp_a_keeps_links_holes_xattrs_and_owners() {
    let mut d = TestDrive::new();
    d.sh(r#"
        mkdir a; cd a; echo one > f; ln f g; ln -s f l; mkfifo p; mknod c c 1 3
        truncate -s 100M hole; printf end | dd of=hole bs=1 seek=50000000 conv=notrunc status=none
        setfattr -n user.big -v $(head -c 3000 /dev/zero | tr '\0' x) f; chown 12:34 f; chmod 4755 f; touch -h -d '1999-12-31 23:59:59.123456789' l f
        cd ..; cp -a --sparse=always a b"#);
    let check = r#"
        cd b; [ $(stat -c %h f) = 2 ] && [ $(stat -c %i f) = $(stat -c %i g) ]
        [ "$(stat -c '%u %g %a %y' f)" = "12 34 4755 1999-12-31 23:59:59.123456789 +0000" ]
        [ "$(readlink l)" = f ] && [ -p p ] && [ "$(stat -c '%t %T' c)" = "1 3" ]
        [ $(stat -c %s hole) = 104857600 ] && [ $(du -k hole | cut -f1) -lt 2000 ] && cmp hole ../a/hole
        [ $(getfattr --only-values -n user.big f | wc -c) = 3000 ]"#;
    d.sh(&format!("export TZ=UTC; {check}"));
    d.move_to_a_new_machine();
    d.sh(&format!("export TZ=UTC; {check}"));
}

#[test]
fn an_editor_saves_by_rename() {
    let mut d = TestDrive::new();
    d.sh("echo one > f; for i in $(seq 200); do echo $i > .f.tmp; sync .f.tmp; mv .f.tmp f; [ $(cat f) = $i ]; done");
    d.remount();
    d.sh("[ $(cat f) = 200 ] && [ $(ls -A | wc -l) = 1 ]");
}

#[test]
fn two_processes_append_to_one_log() {
    let mut d = TestDrive::new();
    d.sh("for p in a b; do (for i in $(seq 1500); do echo $p-$i-xxxxxxxxxxxxxxxxxxxxxxxx >> log; done) & done; wait
          [ $(wc -l < log) = 3000 ] && [ $(sort -u log | wc -l) = 3000 ]");
    d.remount();
    d.sh("[ $(sort -u log | wc -l) = 3000 ]");
}

#[test]
fn a_shared_mmap_counter_counts() {
    let mut d = TestDrive::new();
    d.sh(r#"
        truncate -s 4096 c
        cat > $T/count.py <<'P'
import mmap, os, struct, fcntl, sys
f = open("c", "r+b"); m = mmap.mmap(f.fileno(), 4096)
for _ in range(1000):
    fcntl.lockf(f, fcntl.LOCK_EX)
    m[:8] = struct.pack("<Q", struct.unpack("<Q", m[:8])[0] + 1)
    fcntl.lockf(f, fcntl.LOCK_UN)
m.flush()
P
        python3 $T/count.py & python3 $T/count.py & wait
        python3 -c 'import struct; assert struct.unpack("<Q", open("c","rb").read(8))[0] == 2000'"#);
    d.remount();
    d.sh(r#"python3 -c 'import struct; assert struct.unpack("<Q", open("c","rb").read(8))[0] == 2000'"#);
}

#[test]
fn cargo_builds_inside_the_drive() {
    let d = TestDrive::new();
    d.sh(r#"
        export HOME=/root PATH=$PATH:/root/.cargo/bin
        cargo new --quiet --vcs none hello && cd hello && CARGO_TARGET_DIR=$PWD/target cargo build --quiet --offline && ./target/debug/hello | grep -q Hello
        touch src/main.rs && CARGO_TARGET_DIR=$PWD/target cargo build --quiet --offline"#);
}
