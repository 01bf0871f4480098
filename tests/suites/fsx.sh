# fsx in Rust (crates.io). NACREFS_FSX: the program, else that of PATH. Parts: MODE-SEED.
suite_run() {
  local at ops=${full:+20000} seeds=${full:+1 2 3 4 5 6 7 8} mode name seed n
  at=$(needs NACREFS_FSX fsx) || return 1; ops=${ops:-2000} seeds=${seeds:-1}
  declare -A head=(
    [small]=$'flen = 1048576'
    [large]=$'flen = 8388608\n[opsize]\nmax = 1572864'
    [unsynced]=$'flen = 1048576\nnomsyncafterwrite = true'
    [aligned]=$'flen = 1048576\n[opsize]\nalign = 4096\nmin = 4096\nmax = 131072'
  )
  for name in ${1:-$(for mode in "${!head[@]}"; do for seed in $seeds; do echo "$mode-$seed"; done; done | sort)}; do
    mode=${name%-*} n=$ops; [ "$mode" = large ] && n=$((ops / 5))
    printf '%s\n[weights]\n' "${head[$mode]}" >"$T/fsx.toml"
    printf '%s = 1\n' close_open invalidate fsync fdatasync posix_fallocate punch_hole sendfile posix_fadvise copy_file_range >>"$T/fsx.toml"
    if timeout 3600 "$at" -qq -f "$T/fsx.toml" -N "$n" -S "${name##*-}" -P "$out" "$name" >"$out/fsx.$where.$name.out" 2>&1; then
      said pass "$name"; rm -f "$out/fsx.$where.$name.out"
    else
      said fail "$name" "exit status $?"
    fi
    rm -f "$name"
  done
}
