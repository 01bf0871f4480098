# fio with verification, by each engine. NACREFS_FIO: the program, else that of PATH. Parts: jobs.
suite_run() {
  local at name size=${full:+1g} 
  at=$(needs NACREFS_FIO fio) || return 1; size=${size:-24m}
  declare -A jobs=(
    [sync]='--ioengine=sync --fsync=32' [psync]='--ioengine=psync' [vsync]='--ioengine=vsync'
    [pvsync]='--ioengine=pvsync' [pvsync2]='--ioengine=pvsync2 --numjobs=3'
    [psync-direct]='--ioengine=psync --direct=1' [osync]='--ioengine=psync --sync=1' [mmap]='--ioengine=mmap'
    [libaio]='--ioengine=libaio --iodepth=16' [libaio-direct]='--ioengine=libaio --iodepth=16 --direct=1'
    [io_uring]='--ioengine=io_uring --iodepth=16' [io_uring-direct]='--ioengine=io_uring --iodepth=16 --direct=1'
    [posixaio]='--ioengine=posixaio --iodepth=8' [falloc]='--ioengine=psync --fallocate=keep'
    [trim-verify]='--ioengine=psync --verify_backlog=64' [odirect-append]='--ioengine=psync --direct=1 --file_append=1'
  )
  for name in ${1:-$(printf '%s\n' "${!jobs[@]}" | sort)}; do
    local log=$out/fio.$where.$name.out
    # shellcheck disable=SC2086
    if timeout 1800 "$at" --name="$name" --directory="$PWD" --rw=randrw --bsrange=4k-64k --bs_unaligned=0 --size="$size" \
      --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=7 --unlink=1 ${jobs[$name]} >"$log" 2>&1 </dev/null
    then said pass "$name"; rm -f "$log"
    else said fail "$name" "$(tail -1 "$log")"; fi
    rm -rf ./"$name".*
  done
}
