# Sourced by run: the system around the suites, drives, the control, and what is made of a suite's results.
# shellcheck shell=bash

# A layer over a directory of the system, so that what is put there goes with the namespace.
over() {
  local where; where=$(readlink -f "$1")
  mkdir -p "$T/over$where"; mount -t tmpfs -o mode=755 none "$T/over$where"; mkdir "$T/over$where/up" "$T/over$where/work"
  mount -t overlay none -o "lowerdir=$where,upperdir=$T/over$where/up,workdir=$T/over$where/work" "$where"
}

lab_begin() {
  local m name
  # Copies of drives that are mounted outside would keep them from ending there.
  for m in $(findmnt -rno TARGET -t fuse.nacrefs,fuse | tac); do umount -i -l "$m"; done
  over /sbin; over /etc
  mkdir -p /run/mount; mount -t tmpfs none /run/mount
  : >/etc/fstab
  mkdir "$T/bin"; install -m 755 "$binary" "$T/bin/nacrefs"; binary=$T/bin/nacrefs
  "$here/../../mount-helper/install" "$binary"
  # The users and groups that xfstests and LTP ask for.
  for name in fsgqa fsgqa2 123456-fsgqa; do
    id "$name" >/dev/null 2>&1 || useradd --badname -m -d "$T/home-$name" -s /bin/bash "$name" 2>/dev/null
  done
  for name in nobody bin daemon sys users; do getent group "$name" >/dev/null || groupadd "$name"; done
  # In memory: of a key on the state directory's disk a mount has something to say, where suites want silence.
  mkdir "$T/key"; mount -t tmpfs -o mode=700 none "$T/key"; key=$T/key/key
  umask 077; printf '0123456789abcdef%.0s' 1 2 3 4 >"$key"; echo >>"$key"; umask 022
  unset NACREFS_PASSPHRASE NACREFS_LOG
  export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
}

lab_end() {
  set +e
  cd /
  local m
  for m in $(findmnt -rno TARGET | grep -E "^$T/[cdx]/" | tac); do umount -i -l "$m"; done
  # The daemons see that their mounts are gone, and end.
  for _ in $(seq 100); do pgrep -x nacrefs >/dev/null || pgrep -f 'mount[.a-z]*nacrefs' >/dev/null || break; sleep .1; done
}

# What drive NAME is mounted with.
drive_options() { echo "key_file=$key,state_dir=$T/d/$1/state,allow_other,${NACREFS_SUITES_OPTIONS:-commit=1}"; }

# Makes and mounts the drive NAME; its place is $T/d/NAME/m, its store file://$T/d/NAME/store.
drive() {
  mkdir -p "$T/d/$1/m"
  [ -d "$T/d/$1/store" ] || NACREFS_STATE_DIR=$T/d/$1/state "$binary" init "$T/d/$1/store" --key-file "$key" >/dev/null
  mount -t nacrefs -o "$(drive_options "$1")" "file://$T/d/$1/store" "$T/d/$1/m"
}

# Unmounts the drive NAME if it is mounted, and looks at what is stored; prints what is wrong. The drive is removed.
drive_end() {
  local log=$T/d/$1/state/log wrong=0
  if findmnt -n "$T/d/$1/m" >/dev/null; then umount "$T/d/$1/m" || wrong=1; fi
  NACREFS_STATE_DIR=$T/d/$1/state "$binary" check "$T/d/$1/store" --read-data --key-file "$key" >"$out/$2.check" 2>&1 || {
    wrong=1; echo "the drive is not whole: $out/$2.check"
  }
  if [ -f "$log" ]; then
    cp "$log" "$out/$2.log"
    if grep -n 'panic' "$log"; then wrong=1; echo "the daemon panicked: $out/$2.log"; fi
  fi
  rm -rf --one-file-system "$T/d/$1"
  return $wrong
}

# The control: ext4 on a loop device, made and mounted at $T/c/NAME/m.
control() {
  mkdir -p "$T/c/$1/m"
  truncate -s 12G "$T/c/$1/image"; mkfs.ext4 -qF "$T/c/$1/image"
  mount -o loop "$T/c/$1/image" "$T/c/$1/m"
}
control_end() {
  umount "$T/c/$1/m" || umount -l "$T/c/$1/m"
  rm -rf --one-file-system "$T/c/$1"
}

# Suites say here how a test went: said pass|fail|skip NAME [why]
said() { echo "$*" >>"$results"; }
# … by an exit status.
said_by() { if [ "$1" = 0 ]; then said pass "$2"; else said fail "$2" "exit status $1"; fi; }
# A suite's location, from the variable NAME, or a command of PATH; else there is nothing to run.
needs() {
  local place=${!1:-}
  [ -n "$place" ] || place=$(command -v "${2:-}" 2>/dev/null || true)
  [ -e "$place" ] || { echo "tests/suites/run: set $1 to where the suite is" >&2; exit 2; }
  readlink -f "$place"
}
excludes() { sed 's/[[:space:]]*#.*//; /^$/d' "$here/$suite_name.exclude" 2>/dev/null | awk '{ print $1 }'; }
is_excluded() { excludes | grep -qxF -- "$1"; }

# Runs a suite in one place. $1: drive or ext4; $2: a part of it, or nothing. Suites define
#   suite_run PLACE      runs in the empty directory PLACE, which is on the file system; says how each test went
#   suite_takes_mounts   true where it mounts by itself, $where being drive or ext4
lab_run() {
  where=$1 results=$out/$suite_name.$1.results
  : >"$results"
  local began=$SECONDS wrong=0
  suite_takes_mounts=''
  . "$here/$suite_name.sh"
  if [ -n "$suite_takes_mounts" ]; then
    suite_run "$2" || wrong=1
  elif [ "$where" = drive ]; then
    drive "$suite_name"
    mkdir "$T/d/$suite_name/m/work"; chmod 1777 "$T/d/$suite_name/m/work"
    (cd "$T/d/$suite_name/m/work" && suite_run "$2") || wrong=1
    drive_end "$suite_name" "$suite_name" || said fail the-drive-afterwards
  else
    control "$suite_name"
    mkdir "$T/c/$suite_name/m/work"; chmod 1777 "$T/c/$suite_name/m/work"
    (cd "$T/c/$suite_name/m/work" && suite_run "$2") || wrong=1
    control_end "$suite_name"
  fi
  took=$((SECONDS - began))
  [ $wrong = 0 ] || said fail the-suite-itself
  count() { grep -c "^$1 " "$results" || true; }
  local title="$suite_name${2:+:$2}"
  [ ${#title} -le 24 ] || title="${title:0:21}..."
  printf '%-24s %-6s %7s %7s %7s %8s %7s\n' "$title" "$where" "$(count pass)" "$(count fail)" "$(count skip)" \
    "$(excludes | grep -c .)" "$took"
}

lab_suite() {
  suite_name=$2
  local part=$3 failed name bad=0
  case $on in
    ext4) lab_run ext4 "$part"; return 0 ;;
    *) lab_run drive "$part" ;;
  esac
  failed=$(awk '$1 == "fail" { print $2 }' "$out/$suite_name.drive.results")
  if [ "$on" = both ]; then
    lab_run ext4 "$part"
  elif [ "$on" = auto ] && [ -n "$failed" ]; then
    lab_run ext4 "$(echo "$failed" | tr '\n' ' ')"
  fi
  for name in $failed; do
    if [ "$on" != drive ] && grep -qF "fail $name" "$out/$suite_name.ext4.results"; then
      echo "  $name: fails on ext4 too"
    else
      echo "  $name: FAILED: $(grep -m1 -F "fail $name" "$out/$suite_name.drive.results" | cut -d' ' -f3-)"; bad=1
    fi
  done
  [ $bad = 0 ] || echo "  logs: $out"
  return $bad
}

lab_begin
