//! Runs a script in a mount namespace of its own.

use std::path::Path;
use std::process::{Command, Stdio};

/// What every script begins with. `$T` is a directory of the test's own, with a drive in `store` and `key`, a state
/// directory `state`, and a mount point `m`.
const PRELUDE: &str = r#"
cd "$T"
# Copies of what is mounted outside would keep it from ending there.
for m in $(findmnt -rno TARGET -t fuse.nacrefs,fuse | tac); do umount -i -l "$m"; done
export NACREFS_STATE_DIR=$T/state PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
over() { # a layer over a directory of the system
    local where; where=$(readlink -f "$1")
    mkdir -p "over$where"; mount -t tmpfs none "over$where"; mkdir "over$where/up" "over$where/work"
    mount -t overlay none -o "lowerdir=$where,upperdir=$T/over$where/up,workdir=$T/over$where/work" "$where"
}
over /sbin; over /etc
mkdir -p /run/mount; mount -t tmpfs none /run/mount
"$HELPERS" "$T/bin/nacrefs"
: > /etc/fstab
N=$T/bin/nacrefs
# What was mounted is taken away whatever happened; its daemon then ends.
drives() { findmnt -rno TARGET -t fuse.nacrefs,fuse | grep "^$T/" | tac || true; }
set -E
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND" >&2' ERR
trap 'set +e; cd /; for m in $(drives); do umount -i -l "$m"; done' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }
# The exit status of a command that is to fail, and what it said: in $said.
fails() { local want=$1 rc=0; shift; said=$("$@" 2>&1) || rc=$?; [ "$rc" = "$want" ] || fail "$* is $rc, not $want: $said"; }
says() { [[ $said == *"$1"* ]] || fail "not said: '$1' but: $said"; }
mounted() { findmnt -n "$1" >/dev/null; }
gone() { for _ in $(seq 600); do "$@" || return 0; sleep .1; done; fail "still: $*"; }
comes() { for _ in $(seq 600); do ! "$@" || return 0; sleep .1; done; fail "never: $*"; }
# Whether somebody has locked a file or directory: an umount at work does so with the state directory.
held() { ! flock -n "$1" true; }
"$N" init store --key-file key >/dev/null
mkdir m
"#;

/// Runs a script (bash, with everything that fails being a failure) as root.
pub fn run(script: &str) {
    let dir = tempfile::Builder::new().prefix("nacre-test-").tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    std::fs::create_dir(at("bin")).unwrap();
    // Where ordinary users can run it too.
    std::fs::copy(env!("CARGO_BIN_EXE_nacrefs"), at("bin/nacrefs")).unwrap();
    mode(&at("bin/nacrefs"), 0o755);
    std::fs::write(at("key"), "0123456789abcdef".repeat(4) + "\n").unwrap();
    mode(&at("key"), 0o600);
    let helpers = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helper/install");
    let out = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-euo", "pipefail", "-c"])
        .arg(format!("{PRELUDE}\n{script}\n"))
        .env_clear()
        .env("T", dir.path())
        .env("HELPERS", helpers)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log = std::fs::read_to_string(at("state/log")).unwrap_or_default();
    assert!(
        out.status.success(),
        "{} in\n{script}\n--- stdout\n{}--- stderr\n{}--- log\n{log}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}
