# The file-system parts of the Linux Test Project, installed (make install of testcases/lib, kernel/fs, kernel/io,
# kernel/syscalls, tools/apicmds, runtest). NACREFS_LTP: the directory it is installed in.
# Parts: lists of runtest/ (fs, fs_perms_simple, dio, fcntl-locktests, syscalls), or names of tests.
suite_run() {
  local at name line part rc seconds=${full:+60}
  at=$(needs NACREFS_LTP) || return 1
  export LTPROOT=$at PATH=$at/testcases/bin:$PATH TMPDIR=$PWD LTP_TIMEOUT_MUL=10 LTP_COLORIZE_OUTPUT=n LTP_REPRODUCIBLE_OUTPUT=0
  # Tests that format a device of their own are about that device's file system.
  mkdir -p "$T/ltp"; [ -e "$T/ltp/device" ] || truncate -s 512M "$T/ltp/device"
  LTP_DEV=$(losetup -f --show "$T/ltp/device"); export LTP_DEV LTP_SINGLE_FS_TYPE=ext4
  : >"$T/ltp/list"
  for part in ${1:-fs fs_perms_simple fcntl-locktests dio syscalls}; do
    case $part in
      syscalls) grep -E "^($(ltp_file_calls))[0-9_]*[[:space:]]" "$at/runtest/syscalls" ;;
      *) if [ -f "$at/runtest/$part" ]; then grep -vE '^(#|$)' "$at/runtest/$part"
         else grep -hE "^$part[[:space:]]" "$at"/runtest/{fs,fs_perms_simple,fcntl-locktests,dio,syscalls} | head -1; fi ;;
    esac >>"$T/ltp/list"
  done
  # Those that write for a time: a short one; what has a hundred children: fewer.
  sed -i -E "s/ -L [0-9]+/ -L ${seconds:-5}/; s/ -i (60|120)s/ -i ${seconds:-5}s/; s|/tmp/|$PWD/|" "$T/ltp/list"
  [ -n "$full" ] || sed -i -E 's/ -n 100 -i 100/ -n 10 -i 100/' "$T/ltp/list"
  # About /proc, /dev, /sys and file systems of their own, not about the one under test.
  sed -i -E '/^(proc01|read_all_.*|isofs|squashfs01|binfmt_misc.*|quota_remount_test01) ?/d' "$T/ltp/list"
  while read -r -u 3 name line; do
    if is_excluded "$name"; then continue; fi
    rc=0
    { echo "== $name $line"; timeout 900 bash -c "$line" </dev/null || rc=$?; echo "== exit status $rc"; } >>"$out/ltp.$where.out" 2>&1
    # Bits: 1 failed, 2 broken, 4 warned, 32 does not apply.
    case $rc in
      0) said pass "$name" ;;
      32 | 36) said skip "$name" ;;
      *) said fail "$name" "exit status $rc" ;;
    esac
    cd "$TMPDIR" && find . -mindepth 1 -maxdepth 1 -exec rm -rf {} + || true
  done 3<"$T/ltp/list"
  losetup -d "$LTP_DEV"; rm -rf "$T/ltp"
}

# System calls that a file system has a part in, as the names of their tests go.
ltp_file_calls() {
  tr -s ' \n' '||' <<<"access chdir chmod chown chroot close close_range copy_file_range creat dup dup2 dup3 execve faccessat
    faccessat2 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr file_attr flistxattr flock
    fpathconf fremovexattr fsetxattr fstat fstatat fstatfs fsync ftruncate futimesat getcwd getdents getxattr inotify
    inotify_init io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit io_uring ioctl_ficlone
    ioctl_ficlonerange ioctl_fiemap lchown lgetxattr link linkat listxattr llistxattr llseek lremovexattr lseek lstat
    madvise mincore mkdir mkdirat mknod mknodat mmap mremap msync munmap name_to_handle_at nftw open openat openat2
    open_by_handle_at pathconf posix_fadvise pread preadv preadv2 prot_hsymlinks pwrite pwritev pwritev2 read readahead
    readdir readlink readlinkat readv realpath removexattr rename renameat renameat2 rmdir sendfile setfsgid setfsuid
    setxattr splice stat statfs statvfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink
    unlinkat ustat utime utimensat utimes vmsplice write writev fanotify cachestat" | sed 's/^|*//; s/|*$//'
}
