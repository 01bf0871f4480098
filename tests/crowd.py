"""One of many processes that change the same directory and the same files at once: tests/crowd.rs.

    crowd.py DIR NUMBER ROUNDS      prints the slowest call, in seconds, and how often it took a name from another
"""
import fcntl
import os
import random
import struct
import sys
import time

dir, me, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.chdir(dir)
dice = random.Random(me)
slowest, taken = 0.0, 0


def timed(call, *args, **named):
    global slowest
    begun = time.monotonic()
    try:
        return call(*args, **named)
    finally:
        slowest = max(slowest, time.monotonic() - begun)


def attempt(call, *args):
    """Names that everybody changes: it is as good if another was faster."""
    try:
        timed(call, *args)
        return 1
    except (FileNotFoundError, FileExistsError):
        return 0


log = os.open("log", os.O_WRONLY | os.O_APPEND)
shared = os.open("shared", os.O_RDWR)
for n in range(rounds):
    # Whole lines, each once.
    line = b"%04d %06d %s\n" % (me, n, bytes([97 + me % 26]) * dice.randrange(200))
    assert timed(os.write, log, line) == len(line)
    # A counter that only locks keep right.
    timed(fcntl.lockf, shared, fcntl.LOCK_EX, 8)
    count = struct.unpack("<Q", timed(os.pread, shared, 8, 0))[0]
    assert timed(os.pwrite, shared, struct.pack("<Q", count + 1), 0) == 8
    fcntl.lockf(shared, fcntl.LOCK_UN, 8)
    # A place of one's own between the others', across their pages.
    timed(os.pwrite, shared, bytes([me + 1]) * 3000, 4096 + me * 3000)
    assert timed(os.pread, shared, 3000, 4096 + me * 3000) == bytes([me + 1]) * 3000
    # Save by rename, over what all save; then names that come and go.
    own = "own-%d" % me
    with timed(open, own, "w") as f:
        f.write("%d %d\n" % (me, n))
        f.flush()
        if n % 16 == 0:
            timed(os.fsync, f.fileno())
    timed(os.rename, own, "saved")
    a, b = ("name-%d" % dice.randrange(24) for _ in "ab")
    what = dice.randrange(5)
    if what == 0:
        attempt(os.link, "saved", a)
    elif what == 1:
        attempt(os.rename, a, b)
    elif what == 2:
        taken += attempt(os.unlink, a)
    elif what == 3:
        assert "saved" in timed(os.listdir, ".")
    else:
        saved = timed(open, "saved").read().split()
        assert len(saved) == 2, saved
print("%.3f %d" % (slowest, taken))
