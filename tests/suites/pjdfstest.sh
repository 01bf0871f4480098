# pjdfstest in Rust (crates.io). NACREFS_PJDFSTEST: the program, else that of PATH. Parts: patterns of names.
suite_run() {
  local at rc=0 config=$T/pjdfstest.toml name verdict rest
  at=$(needs NACREFS_PJDFSTEST pjdfstest) || return 1
  # It becomes these users, and remounts.
  id tests >/dev/null 2>&1 || useradd -U tests
  cat >"$config" <<'TOML'
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
expected_failures = []
[dummy_auth]
entries = [["nobody", "nogroup"], ["tests", "tests"]]
TOML
  # Those that remount cannot while another test's descriptor is open, so they have processes of their own.
  sed 's/^allow_remount = .*/allow_remount = true/' "$config" >"$config.remount"
  local log=$out/pjdfstest.$where.out
  : >"$log"
  if [ -z "$1" ]; then
    "$at" -c "$config" -p "$PWD" -s "$T" >>"$log" 2>&1 || rc=$?
    "$at" -c "$config.remount" -p "$PWD" -s "$T" erofs >"$log.remount" 2>&1 || rc=$?
    grep -v 'erofs.* skipped$' "$log" >"$log.rest" || true
    cat "$log.rest" "$log.remount" >"$log"; rm -f "$log.rest" "$log.remount"
  else
    for name in $1; do "$at" -c "$config.remount" -p "$PWD" -s "$T" -e "$name" >>"$log" 2>&1 || rc=$?; done
  fi
  while read -r name verdict rest; do
    case $verdict in
      ok) said pass "$name" ;;
      FAILED | failed) said fail "$name" "$rest" ;;
      skipped) said skip "$name" "$rest" ;;
    esac
  done < <(grep -E '^[a-z_0-9]+::' "$log")
  grep -q '^Summary:' "$log" || return 1
  [ $rc = 0 ] || grep -q '^fail ' "$results"
}
