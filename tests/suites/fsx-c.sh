# fsx in C, of xfstests (ltp/fsx) or LTP (testcases/bin/fsx-linux). NACREFS_FSX_C: the program, built of xfstests.
# Parts: MODE-SEED. NACREFS_FSX_OPS: operations of each run.
suite_run() {
  local at ops=${NACREFS_FSX_OPS:-${full:+60000}} seeds=${full:+1 2 3 4} name mode
  at=$(needs NACREFS_FSX_C) || return 1; ops=${ops:-2000} seeds=${seeds:-1}
  declare -A flags=(
    [plain]=''                                 # read, write, mapped both ways, truncate, all of fallocate, copies
    [reopen]='-c 20 -l 1000000'                # closed and opened again
    [large]='-l 20000000 -o 1500000'           # over many segments
    [pages]='-r 4096 -w 4096 -t 4096'
    [calls]='-R -W -y'                         # no mmap; fsync
    [invalidate]='-f'                          # the cache dropped after each
    [direct]='-Z -R -W -r 512 -w 512'          # O_DIRECT
    [direct4k]='-Z -R -W -r 4096 -w 4096 -l 8000000 -o 1048576'
    [aio]='-A -R -W' [aiodirect]='-A -Z -R -W -r 512 -w 512'
    [uring]='-U -R -W' [uringdirect]='-U -Z -R -W -r 512 -w 512'
    [size]='-L -l 500000'                      # the size never changes
    [endpages]='-e 1'                          # what is beyond the end is dirtied
    [compare]='-X -l 100000'
  )
  for name in ${1:-$(for mode in "${!flags[@]}"; do for seed in $seeds; do echo "$mode-$seed"; done; done | sort)}; do
    mode=${name%-*}
    local n=$ops; case $mode in compare | large | direct4k) n=$((ops / 4)) ;; esac
    [ "$mode" = size ] && dd if=/dev/urandom of="$name" bs=500000 count=1 status=none
    # shellcheck disable=SC2086
    if timeout 3600 "$at" -q -N "$n" -S "${name##*-}" -P "$out" ${flags[$mode]} "$name" >"$out/fsx-c.$where.$name.out" 2>&1; then
      said pass "$name"; rm -f "$out/fsx-c.$where.$name.out" "$out/$name".fsx*
    else
      said fail "$name" "exit status $?"
    fi
    rm -f "$name"
  done
}
