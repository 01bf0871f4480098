# fsstress, of xfstests (ltp/fsstress). NACREFS_FSSTRESS: the program, built. Parts: JOBS-SEED.
suite_run() {
  local at ops=${full:+20000} name
  at=$(needs NACREFS_FSSTRESS) || return 1; ops=${ops:-1000}
  for name in ${1:-1-1 4-2 16-3 ${full:+1-4 4-5 16-6 64-7}}; do
    mkdir "$name"
    if timeout 3600 "$at" -d "$PWD/$name" -p "${name%-*}" -s "${name#*-}" -n "$((ops / ${name%-*} * 4))" >"$out/fsstress.$where.$name.out" 2>&1 </dev/null
    then said pass "$name"; rm -f "$out/fsstress.$where.$name.out"
    else said fail "$name" "exit status $?"; fi
    # The tree can be read, and goes.
    find "$name" -type f -exec cat {} + >/dev/null && said pass "$name-read" || said fail "$name-read"
    rm -rf "$name" && said pass "$name-removed" || said fail "$name-removed"
  done
}
