"""Shell completion, asked for as a person does: by Tab, in real shells on a terminal of their own.

    tests/completions.py BINARY
"""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time


class Shell:
    """A shell on a terminal, in which `nacrefs` shows its arguments and does nothing else."""

    def __init__(self, command, setup, cwd):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.environ.update(TERM="dumb", PS1="ready> ", HISTFILE="", LC_ALL="C.UTF-8")
            os.execvp(command[0], command)
        self.said = ""
        self.type(setup + "; echo set-up-is-$((40 + 2))\r")
        self.until("set-up-is-42")

    def type(self, text):
        os.write(self.terminal, text.encode())

    def until(self, pattern, limit=20):
        """What is said until the pattern comes, which must not take long."""
        end = time.monotonic() + limit
        while not (found := re.search(pattern, self.said)):
            if not select.select([self.terminal], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"no {pattern!r} in {self.said!r}")
            self.said += os.read(self.terminal, 65536).decode(errors="replace")
        said, self.said = self.said[: found.end()], self.said[found.end() :]
        return said, found

    def complete(self, line):
        """The arguments that the line has after a Tab."""
        self.type(line + "\t")
        time.sleep(0.3)
        self.type("\r")
        _, found = self.until(r"GOT((?:<[^>]*>)*)END")
        return re.findall(r"<([^>]*)>", found[1])

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


class Fish:
    """fish completes without a terminal. There is no line to look at: if all candidates begin alike, so does it."""

    def __init__(self, setup, cwd):
        self.setup, self.cwd = setup, cwd

    def complete(self, line):
        script = f"{self.setup}; complete -C {line!r}"
        out = subprocess.run(["fish", "--no-config", "-c", script], cwd=self.cwd, capture_output=True, text=True, check=True)
        candidates = [c.split("\t")[0] for c in out.stdout.splitlines()]
        words = line.replace("\\ ", "\0").split(" ")[1:]
        words = [w.replace("\0", " ") for w in words]
        return words[:-1] + [os.path.commonprefix(candidates) or words[-1]]

    def end(self):
        pass


def main():
    binary = os.path.realpath(sys.argv[1])
    top = tempfile.mkdtemp(prefix="nacre-test-")
    path = os.path.join(top, "bin")
    os.mkdir(path)
    os.symlink(binary, os.path.join(path, "nacrefs"))
    os.environ.update(PATH=f"{path}:{os.environ['PATH']}", HOME=top, NACREFS_STATE_DIR=os.path.join(top, "state"))
    for name in list(os.environ):
        if name.startswith("NACREFS_PASS"):
            del os.environ[name]
    mnt, store, key = (os.path.join(top, n) for n in ("my drive", "store", "key"))
    os.mkdir(mnt)
    for shell in ("bash", "zsh", "fish"):
        with open(os.path.join(top, f"nacrefs.{shell}"), "wb") as f:
            f.write(subprocess.check_output([binary, "completions", shell]))
    subprocess.run([binary, "init", store, "--key-file", key], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([binary, "mount", store, mnt, "--key-file", key, "-o", "commit=600"], check=True)
    daemon = None
    try:
        for i in range(3):
            with open(os.path.join(mnt, "a file"), "w") as f:
                f.write(str(i))
            version = subprocess.check_output([binary, "sync", mnt], text=True).strip()
        pids = subprocess.check_output(["pgrep", "-f", f"nacrefs mount {store} "], text=True).split()
        daemon = int(pids[0])
        show = "nacrefs() { printf GOT; printf '<%s>' \"$@\"; printf 'END\\n'; }"
        shells = {
            "bash": lambda: Shell(["bash", "--norc", "--noprofile", "-i"], f"{show}; . {top}/nacrefs.bash; bind 'set enable-bracketed-paste off'", top),
            "zsh": lambda: Shell(
                ["zsh", "-f", "-i"],
                f"PS1='ready> '; unsetopt zle_bracketed_paste; autoload -U compinit; compinit -u -D; . {top}/nacrefs.zsh; {show}",
                top,
            ),
            "fish": lambda: Fish(f". {top}/nacrefs.fish", top),
        }
        # What is typed, and the arguments after a Tab. A slash at the end of a directory is as good as none.
        table = [
            ("nacrefs umou", ["umount"]),
            (f"nacrefs umount {top}/", ["umount", mnt]),
            (f"nacrefs umount {top}/m", ["umount", mnt]),
            ("nacrefs check store --read-d", ["check", "store", "--read-data"]),
            ("nacrefs completions zs", ["completions", "zsh"]),
            ("nacrefs mount -o ro,allow", ["mount", "-o", "ro,allow_other"]),
            ("nacrefs mount sto", ["mount", "store"]),
            ("nacrefs init --key-file ke", ["init", "--key-file", "key"]),
            ("nacrefs cat my\\ drive/a", ["cat", "my drive/a file"]),
            (f"nacrefs cat my\\ drive/a\\ file --at {version}", ["cat", "my drive/a file", "--at", version]),
            ("nacrefs cat my\\ drive/a\\ file --at yest", ["cat", "my drive/a file", "--at", "yesterday"]),
        ]
        for name, make in shells.items():
            shell = make()
            try:
                for line, want in table:
                    got = [w.removesuffix("/") for w in shell.complete(line)]
                    assert got == want, f"{name}: {line!r} became {got}, not {want}"
                print(f"  ok    {name} completes commands, options, mount points, files")
                if name == "bash":
                    # One version begins with a digit that no other does: it is offered, and so it is completed.
                    assert shell.complete("nacrefs cat my\\ drive/a\\ file --at=y")[-1] == "--at=yesterday"
                    shell.type("nacrefs cat my\\ drive/a\\ file --at \t\t")
                    shell.until(rf"\b{version}\b")
                    shell.type("\x15\r")
                if name == "zsh":
                    shell.type("nacrefs cat my\\ drive/a\\ file --at \t")
                    shell.until(rf"\b{version} +-- \d{{4}}-")
                    shell.type("\x15\r")
                if name == "fish":
                    out = subprocess.check_output(
                        ["fish", "--no-config", "-c", f". {top}/nacrefs.fish; complete -C 'nacrefs cat my\\ drive/a\\ file --at '"],
                        cwd=top, text=True)
                    assert re.search(rf"^{version}\t\d{{4}}-", out, re.M), out
                print(f"  ok    {name} completes versions")
            finally:
                shell.end()

        # A daemon that hangs: what it would have to be asked for is left out, soon.
        os.kill(daemon, signal.SIGSTOP)
        begun = time.monotonic()
        for words in (["umount", ""], ["cat", "my drive/a file", "--at", ""]):
            out = subprocess.run([binary, "complete", "fish", *words], cwd=top, capture_output=True, text=True, timeout=10, check=True)
            assert (mnt if words[0] == "umount" else "yesterday") in out.stdout, out
        assert time.monotonic() - begun < 4, "completion hangs with the daemon"
        print("  ok    a daemon that hangs does not hang the completion")
    finally:
        if daemon:
            os.kill(daemon, signal.SIGCONT)
        subprocess.run([binary, "umount", mnt], check=True)
        shutil.rmtree(top)


main()
