# pjdfstest in C and shell (github.com/pjd/pjdfstest), built. NACREFS_PJDFSTEST_C: its directory.
# Parts: files below tests/, or single tests of one, as FILE#NUMBER.
suite_run() {
  local at file number
  at=$(needs NACREFS_PJDFSTEST_C)/tests || return 1
  for file in ${1:-$(cd "$at" && printf '%s\n' */*.t)}; do echo "${file%%#*}"; done | sort -u >"$T/pjdfstest-c.list"
  while read -r file; do
    sh "$at/$file" >"$T/pjdfstest-c.tap" 2>&1 </dev/null || true
    { echo "== $file"; cat "$T/pjdfstest-c.tap"; } >>"$out/pjdfstest-c.$where.out"
    # TAP; "TODO" are those that are known to fail on some systems, "SKIP" those that do not apply.
    awk -v file="$file" '
      /^1\.\.0/ { print "skip", file }
      /^(not )?ok [0-9]+/ {
        bad = $1 == "not"; number = bad ? $3 : $2; told++
        if (/# *(SKIP|skip)/) print "skip", file "#" number
        else if (!bad || /# *TODO/) print "pass", file "#" number
        else print "fail", file "#" number, $0
      }
      /^1\.\.[0-9]+$/ { planned = substr($1, 4) }
      END { if (planned != told) print "fail", file, "said " told + 0 " of " planned + 0 }
    ' "$T/pjdfstest-c.tap" >>"$results"
  done <"$T/pjdfstest-c.list"
}
