# xfstests (github.com/kdave/xfstests), built. NACREFS_XFSTESTS: its directory.
# Parts: groups (-g) or names of tests; `quick` if none are given.
suite_takes_mounts=1

suite_run() {
  local at what=() word
  at=$(needs NACREFS_XFSTESTS) || return 1
  for word in ${1:-quick}; do
    case $word in */*) what+=("$word") ;; *) what+=(-g "$word") ;; esac
  done
  mkdir -p "$T/x" "$T/x/bin" "$T/x/test" "$T/x/scratch" "$out/xfstests.$where"
  {
    # We are in a process namespace of our own, as under its check-parallel: tests look below /proc for the whole system's.
    echo "export FSTESTS_ISOL=privatens"
    echo "export TEST_DIR=$T/x/test SCRATCH_MNT=$T/x/scratch RESULT_BASE=$out/xfstests.$where"
    if [ "$where" = drive ]; then
      xfstests_drive test; xfstests_drive scratch
      echo "export FSTYP=fuse FUSE_SUBTYP=.nacrefs TEST_DEV=file://$T/d/test/store SCRATCH_DEV=file://$T/d/scratch/store"
      echo "export TEST_FS_MOUNT_OPTS='-o $(drive_options test)' MOUNT_OPTIONS='-o $(drive_options scratch)'"
      # The suite takes its FSTYP for what df shows.
      printf '#!/bin/sh\n%s "$@" | sed "s/ fuse.nacrefs / fuse         /"\n' "$(command -v df)" >"$T/x/bin/df"
      # Suites take what umount says of its progress, where it takes seconds, for an error.
      printf '#!/bin/bash\n{ %s "$@" 2>&1 >&3 | grep -v "left to store, after" >&2; exit ${PIPESTATUS[0]}; } 3>&1\n' \
        "$(command -v umount)" >"$T/x/bin/umount"
      chmod +x "$T/x/bin/df" "$T/x/bin/umount"
    else
      mkdir -p "$T/c"
      truncate -s 12G "$T/c/test" "$T/c/scratch"; mkfs.ext4 -qF "$T/c/test"; mkfs.ext4 -qF "$T/c/scratch"
      echo "export FSTYP=ext4 TEST_DEV=$(losetup -f --show "$T/c/test") SCRATCH_DEV=$(losetup -f --show "$T/c/scratch")"
    fi
  } >"$T/x/config"
  excludes >"$T/x/excludes"
  (cd "$at" && PATH=$T/x/bin:$PATH HOST_OPTIONS=$T/x/config ./check -E "$T/x/excludes" "${what[@]}") >"$out/xfstests.$where.out" 2>&1 || true
  local ran skipped failed
  ran=$(sed -n 's/^Ran: //p' "$out/xfstests.$where.out"); skipped=$(sed -n 's/^Not run: //p' "$out/xfstests.$where.out")
  failed=$(sed -n 's/^Failures: //p' "$out/xfstests.$where.out")
  for word in $ran; do
    case " $failed " in *" $word "*) said fail "$word" ;; *)
      case " $skipped " in *" $word "*) said skip "$word" ;; *) said pass "$word" ;; esac ;;
    esac
  done
  for word in "$T/x/test" "$T/x/scratch"; do if findmnt -n "$word" >/dev/null; then umount "$word" || said fail the-unmount; fi; done
  if [ "$where" = drive ]; then
    for word in test scratch; do drive_end $word "xfstests.$word" || said fail "the-$word-drive-afterwards"; done
  else
    losetup -j "$T/c/test" | cut -d: -f1 | xargs -r losetup -d; losetup -j "$T/c/scratch" | cut -d: -f1 | xargs -r losetup -d
    rm -f "$T/c/test" "$T/c/scratch"
  fi
  [ -n "$ran" ]
}

xfstests_drive() {
  mkdir -p "$T/d/$1"
  NACREFS_STATE_DIR=$T/d/$1/state "$binary" init "$T/d/$1/store" --key-file "$key" >/dev/null
}
