# stress-ng's file-system class, with --verify. NACREFS_STRESS_NG: the program, else that of PATH. Parts: stressors.
suite_run() {
  local at name seconds=${full:+20} all
  at=$(needs NACREFS_STRESS_NG stress-ng) || return 1; seconds=${seconds:-1}
  all=$("$at" --class 'filesystem?' 2>&1 | sed "s/^class 'filesystem' stressors: //")
  for name in ${1:-$all}; do
    if is_excluded "$name"; then continue; fi
    local log=$out/stress-ng.$where.$name.out rc=0
    timeout $((seconds + 300)) "$at" --"$name" 2 --verify --temp-path "$PWD" -t "$seconds" >"$log" 2>&1 </dev/null || rc=$?
    if [ $rc = 0 ] && ! grep -qE '^stress-ng: (fail|error)' "$log"; then
      if grep -q 'skipp' "$log"; then said skip "$name"; else said pass "$name"; fi
      rm -f "$log"
    # 3: no resources, 4: not implemented here; and some are only for machines that may hang.
    elif [ $rc = 4 ] || [ $rc = 3 ] || grep -q "disabled '$name'" "$log"; then said skip "$name"
    else said fail "$name" "exit status $rc: $(grep -m1 -E '(fail|error):' "$log" || true)"; fi
  done
}
