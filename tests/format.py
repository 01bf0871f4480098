#!/usr/bin/env python3
"""A second reader of docs/FORMAT.md, which shares nothing with the program: a store and a key file in, the
newest version's tree and files out; a state directory's journal too. Needs blake3, pynacl and brotli.

    format.py tree  STORE KEYFILE             every path of the newest version, with its attributes
    format.py cat   STORE KEYFILE PATH        a file's bytes
    format.py state STORE KEYFILE STATE_DIR   the state directory's records, then the journal's
    format.py test  NACREFS                   makes a drive with the program, and compares
"""
import json, os, stat, struct, subprocess, sys, tempfile

import brotli
import nacl.bindings as sodium
from blake3 import blake3
from nacl.signing import VerifyKey

TYPES = {1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFLNK, 4: stat.S_IFIFO, 5: stat.S_IFSOCK,
         6: stat.S_IFCHR, 7: stat.S_IFBLK}
FILE, DIR, LINK = 1, 2, 3
CONTENT, NODE, COMMIT, HEAD, INDEX, FOOTER, JOURNAL, CACHE, SLOT, STATE = range(1, 11)
PAGE, SEGMENT = 4096, 1 << 20


# --- Values ---

class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def raw(self, n):
        out = self.data[self.at:self.at + n]
        assert len(out) == n, "ends too early"
        self.at += n
        return out

    def u8(self): return self.raw(1)[0]
    def u16(self): return int.from_bytes(self.raw(2), "little")
    def u32(self): return int.from_bytes(self.raw(4), "little")
    def u64(self): return int.from_bytes(self.raw(8), "little")

    def var(self):
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                assert (byte or shift == 7) and value < 1 << 64, "not minimal, or over 64 bits"
                return value

    def ivar(self):
        v = self.var()
        return v >> 1 if v & 1 == 0 else -(v >> 1) - 1

    def bytes(self): return self.raw(self.var())

    def time(self):
        sec, nsec = self.ivar(), self.var()
        assert nsec < 10**9
        return sec * 10**9 + nsec

    def rest(self): return self.data[self.at:]
    def end(self): assert self.at == len(self.data), "bytes left over"


def put_var(v):
    out = b""
    while v >= 0x80:
        out, v = out + bytes([v & 0x7f | 0x80]), v >> 7
    return out + bytes([v])


def padme(n):
    if n < 2:
        return n
    e = n.bit_length() - 1
    unit = 1 << (e - e.bit_length())
    return -(-n // unit) * unit


def check_padding(r):
    used = r.at
    assert used + len(r.rest()) == padme(used) and not any(r.rest()), "not padded as it must be"


# --- Keys and seals ---

def derive(context, material):
    return blake3(material, derive_key_context="nacre 2026 " + context).digest()


def keyed(key, data, length=32):
    return blake3(data, key=key).digest(length=length)


def open_seal(kind, key, realm, ad, sealed):
    a = b"nacre" + struct.pack("<HBB", 1, kind, 1) + realm + ad
    nonce, rest = sealed[:24], sealed[24:]
    plain = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(rest, a, nonce, derive("seal: cipher key", key))
    again = keyed(derive("seal: nonce key", key), struct.pack("<Q", len(a)) + a + plain, 24)
    assert again == nonce, "another nonce"
    return plain


def verify(public, purpose, message, signature):
    VerifyKey(public).verify(b"nacre" + struct.pack("<HBB", 1, purpose, 1) + message, signature)


def open_object(kind, key, realm, number, stored):
    r = Reader(open_seal(kind, key, realm, number, stored))
    codec, size = r.u8(), r.var()
    payload = {0: lambda: r.raw(size), 1: lambda: r.bytes()}[codec]()
    check_padding(r)
    if codec == 1:
        assert size >= 256 and 8 * (size - len(payload)) >= size
        payload = brotli.decompress(payload)
    assert len(payload) == size <= 4 << 20
    return payload


class Drive:
    """A store, opened with a key file."""

    def __init__(self, store, key_file):
        self.store = store
        note = json.loads(self.read("nacre.json"))
        assert note["magic"] == "nacre drive" and note["format"] == 1
        self.open_slot(bytes.fromhex(open(key_file).read().strip()))
        assert self.drive.hex() == note["drive"]
        self.places, self.open_packs = {}, {}
        self.open_head()
        self.open_index()

    def read(self, name):
        with open(os.path.join(self.store, name), "rb") as f:
            return f.read()

    def in_realm(self, name): return f"realms/{self.realm.hex()}/{name}"

    def open_slot(self, key):
        for name in sorted(os.listdir(os.path.join(self.store, "slots"))):
            r = Reader(self.read("slots/" + name))
            assert r.raw(10) == b"nacre slot" and (r.u16(), r.u8()) == (1, 1)
            slot, drive, kind = r.raw(16), r.raw(16), r.u8()
            assert slot.hex() == name
            if kind != 2:
                continue
            salt, _label, _created = r.raw(32), r.bytes(), r.time()
            header, sealed = r.data[:r.at], r.bytes()
            r.end()
            s = Reader(open_seal(SLOT, derive("slot: key file", key + salt), drive, header, sealed))
            self.drive, self.realm, self.epoch = s.raw(16), s.raw(16), s.u32()
            assert self.drive == drive
            newest_first = [s.raw(32) for _ in range(self.epoch)]
            self.secrets = {self.epoch - i: secret for i, secret in enumerate(newest_first)}
            self.admin = bytes(sodium.crypto_sign_seed_keypair(s.raw(32))[0])
            check_padding(s)
            return
        raise SystemExit("no slot for a key file")

    def of_epoch(self, purpose, epoch):
        return derive(purpose, self.secrets[epoch] + self.realm + struct.pack("<I", epoch))

    def name_hash(self, name):
        key = derive("realm: name-hash key", self.secrets[1] + self.realm)
        return max(int.from_bytes(keyed(key, name)[:8], "little") & (1 << 63) - 1, 3)

    def open_head(self):
        names = sorted(os.listdir(os.path.join(self.store, self.in_realm("heads"))))
        data = self.read(self.in_realm("heads/" + names[-1]))
        r = Reader(data)
        assert r.raw(8) == b"nacrehed" and (r.u16(), r.u8(), r.u8()) == (1, 1, 0)
        assert (r.raw(16), r.raw(16)) == (self.drive, self.realm)
        epoch, device, version = r.u32(), r.raw(16), r.u64()
        assert version == int(names[-1]) and len(names[-1]) == 20
        before, _skip = (r.u64(), r.raw(32)), (r.u64(), r.raw(32))
        if before[0]:
            name = self.in_realm("heads/%020d" % before[0])
            assert blake3(self.read(name)).digest() == before[1]
        shown = data[:r.at] + bytes(4)
        payload, signature = r.raw(r.u32()), r.raw(64)
        r.end()
        ad = struct.pack("<IQ", epoch, version) + shown
        p = Reader(open_seal(HEAD, self.of_epoch("realm: head key", epoch), self.realm, ad, payload))
        assert p.u8() == 1
        address, key, pack, size, _chunks = p.raw(32), p.raw(32), p.raw(32), p.var(), p.var()
        offset, length, _time, public, certificate = p.var(), p.var(), p.time(), p.raw(32), p.raw(64)
        p.end()
        verify(self.admin, 2, self.drive + self.realm + device + public, certificate)
        verify(public, 1, data[:-64], signature)
        held = self.pack(pack)
        assert len(held) == size
        stored = held[offset:offset + length]
        assert blake3(stored).digest() == address
        self.read_commit(Reader(open_object(COMMIT, key, self.realm, struct.pack("<Q", version), stored)), version)

    def read_commit(self, r, version):
        assert r.u8() == 1
        features = r.var(), r.var(), r.var()
        assert features[2] == 0
        self.parameters = {r.var(): r.var() for _ in range(r.var())}
        self.version = r.var()
        assert self.version == version
        self.parents = [(r.var(), r.raw(32)) for _ in range(r.var())]
        self.time, self.device, self.incarnation = r.time(), r.raw(16), r.raw(16)
        self.devices = {}
        for _ in range(r.var()):
            device, number, lsn, counter, seen = r.raw(16), r.var(), r.var(), r.var(), r.var()
            self.devices[device] = (number, lsn, counter, (seen, r.raw(32)) if seen else None)
        self.counts = r.var(), r.var(), r.var()
        self.root = self.inode(r)
        self.shells, self.history, self.packs = (read_map(r) for _ in range(3))
        self.fresh = [(r.raw(32), r.var(), r.var()) for _ in range(r.var())]
        self.runs = [[(r.raw(32), r.var(), r.var(), r.var(), r.var(), r.u64()) for _ in range(r.var())]
                     for _ in range(r.var())]
        r.end()

    # --- Packs and the index ---

    def pack(self, pack):
        if pack not in self.open_packs:
            name = pack.hex()
            data = self.read(self.in_realm(f"packs/{name[:2]}/{name}"))
            assert blake3(data).digest() == pack and padme(len(data)) == len(data)
            r = Reader(data)
            assert r.raw(8) == b"nacrepck" and (r.u16(), r.u8(), r.u8()) == (1, 1, 0)
            key = self.of_epoch("realm: index key", r.u32())
            assert data[-4:] == b"ncre"
            length = int.from_bytes(data[-8:-4], "little")
            start = len(data) - 8 - length
            footer = open_seal(FOOTER, key, self.realm, data[:16] + struct.pack("<Q", start), data[start:-8])
            f = Reader(footer)
            listed = [(f.raw(32), f.u32(), f.u32()) for _ in range(f.u32())]
            check_padding(f)
            at = 16
            for address, offset, size in sorted(listed, key=lambda e: e[1]):
                assert offset == at and blake3(data[at:at + size]).digest() == address
                at += size
            padding = keyed(derive("pack: padding", key), footer, start - at)
            assert data[at:start] == padding
            self.open_packs[pack] = data
        return self.open_packs[pack]

    def open_index(self):
        for run in reversed(self.runs):  # the newest wins
            for part, epoch, size, footer, entries, first in run:
                data = self.read(self.in_realm("index/" + part.hex()))
                assert len(data) == size and blake3(data[-footer:]).digest() == part
                assert data[:16] == b"nacreidx" + struct.pack("<HBBI", 1, 1, 0, epoch)
                key = self.of_epoch("realm: index key", epoch)
                f = Reader(open_seal(INDEX, key, self.realm, b"footer", data[-footer:]))
                blocks = [(f.raw(32), f.var(), f.raw(16)) for _ in range(f.var())]
                packs = f.var()
                tables = [(min(512, packs - n), f.raw(16)) for n in range(0, packs, 512)]
                words = [f.u64() for _ in range(-(-10 * entries // 64))]
                padding = f.rest()  # none in parts of older writers
                assert not any(padding) and (not padding or padme(size - len(padding)) == size)
                assert sum(b[1] for b in blocks) == entries
                assert int.from_bytes(blocks[0][0][:8], "big") == first
                at = 16

                def block(kind, n, count, width, short):
                    nonlocal at
                    sealed = data[at:at + count * width + 40]
                    at += len(sealed)
                    assert blake3(sealed).digest()[:16] == short
                    plain = open_seal(INDEX, key, self.realm, kind + struct.pack("<I", n), sealed)
                    return [plain[i:i + width] for i in range(0, len(plain), width)]

                listed = [e for n, (_, c, h) in enumerate(blocks) for e in block(b"block", n, c, 44, h)]
                table = [p for n, (c, h) in enumerate(tables) for p in block(b"table", n, c, 32, h)]
                assert at == size - footer and [e[:32] for e in listed] == sorted(e[:32] for e in listed)
                for entry in listed:
                    pack, offset, length = struct.unpack("<III", entry[32:])
                    self.places[entry[:32]] = (table[pack], offset, length)
                    a, b = (int.from_bytes(entry[i:i + 8], "big") for i in (8, 16))
                    for i in range(7):
                        bit = ((a + i * (b | 1)) % 2**64 * len(words) * 64) >> 64
                        assert words[bit // 64] >> bit % 64 & 1

    def chunk(self, address):
        pack, offset, length = self.places[address]
        stored = self.pack(pack)[offset:offset + length]
        assert blake3(stored).digest() == address
        return stored

    def opened(self, kind, address, key):
        return open_object(kind, key, self.realm, b"", self.chunk(address))

    # --- Maps ---

    def entries(self, pointer):
        if pointer is not None:
            height, address, key, count = pointer
            yield from self.node(height - 1, address, key, count, None)

    def node(self, level, address, key, count, last, after=None, upto=None):
        """What is below a node whose last key is `last`; or, with `upto`, the part of it above `after` and up to `upto`."""
        data = self.opened(NODE, address, key)
        r = Reader(data)
        assert len(data) <= 32768 and r.u8() == 1 and r.u8() == level
        ends = [(r.u16(), r.u16()) for _ in range(r.u16())]
        pieces, start, found, seen = r.rest(), 0, None, 0
        assert ends and ends[-1][1] == len(pieces)
        for middle, end in ends:
            k, v = pieces[start:middle], pieces[middle:end]
            assert found is None or found < k
            start, found, before = end, k, found
            shown = k if upto is None else min(k, upto)
            if level == 0:
                seen += 1
                if shown == k and (after is None or after < k):
                    yield k, v
            else:
                c = Reader(v)
                child = c.raw(32), c.raw(32), c.var()
                form = c.u8() if c.rest() else 0
                told = c.bytes() if form == 2 else None
                bounds = [b for b in (after, before if form else None, told) if b is not None]
                c.end()
                assert form < 3
                seen += child[2]
                above = max(bounds) if bounds else None
                if above is not None and above >= shown:
                    continue  # outside of the part
                part = form or upto is not None
                yield from self.node(level - 1, *child, None if form else k, above, shown if part else None)
        assert seen == count and last in (None, found)

    # --- Inodes ---

    def inode(self, r):
        i = {"ino": r.var(), "type": r.u8()}
        assert 0 < i["ino"] < 1 << 63
        for field in "perm uid gid rdev nlink size allocated".split():
            i[field] = r.var()
        for field in "atime mtime ctime btime".split():
            i[field] = r.time()
        form = r.u8()
        assert form < 3
        if form == 2:  # read later: the index is not open yet when a commit's root is read
            size, address, key = r.var(), r.raw(32), r.raw(32)
            i["xattrs"] = lambda: xattrs(self.sized(size, address, key))
        else:
            here = xattrs(r.bytes()) if form else {}
            i["xattrs"] = lambda: here
        i["content"] = {FILE: read_blob, DIR: read_map, LINK: lambda r: r.bytes()}.get(i["type"], lambda r: None)(r)
        return i

    def sized(self, size, address, key):
        data = self.opened(CONTENT, address, key)
        assert len(data) == size
        return data

    def walk(self):
        """(path, inode), directories before what is in them."""
        shells, names = {}, {}
        for key, value in self.entries(self.shells):
            if len(key) == 8:
                r = Reader(value)
                inode = self.inode(r)
                r.end()
                assert inode["ino"] == int.from_bytes(key, "big")
                shells[inode["ino"]] = inode
            else:
                names.setdefault(key[:8], set()).add((int.from_bytes(key[8:16], "big"), key[16:]))
                assert value == b""
        todo, led = [(b"", self.root)], {}
        while todo:
            path, inode = todo.pop()
            yield path, inode
            if inode["type"] != DIR:
                continue
            for key, value in self.entries(inode["content"]):
                name = key[8:]
                assert int.from_bytes(key[:8], "big") == self.name_hash(name) and b"/" not in name
                r = Reader(value)
                if r.u8() == 1:
                    child = self.inode(r)
                else:
                    child = shells[r.var()]
                    assert r.u8() == child["type"]
                    led.setdefault(struct.pack(">Q", child["ino"]), set()).add((inode["ino"], name))
                r.end()
                todo.append((path + b"/" + name if path else name, child))
        assert led == names, "names of shells are not the entries that lead to them"

    # --- Contents ---

    def content(self, inode):
        blob, out = inode["content"], bytearray(inode["size"])
        if blob[0] == 1:
            lay(out, 0, blob[1])
        elif blob[0] == 2:
            lay(out, 0, self.segment(Reader(blob[1])))
        elif blob[0] == 3:
            for key, value in self.entries(blob[2]):
                r = Reader(value)
                lay(out, int.from_bytes(key, "big") * SEGMENT, self.segment(r))
                r.end()
        return bytes(out)

    def segment(self, r):
        out = bytearray(SEGMENT)
        base, extents = read_segment(r)
        if base:
            bits, size, members, shown, _stale, holes = base
            lay(out, 0, self.set(bits, size, members)[:shown])
            for page in range(SEGMENT // PAGE):
                if holes >> page & 1:
                    out[page * PAGE:(page + 1) * PAGE] = bytes(PAGE)
        for at, length, front, back, address, key in extents:
            data = self.opened(CONTENT, address, key)
            assert len(data) == front + length + back
            lay(out, at, data[front:front + length])
        return bytes(out)

    def set(self, bits, size, members):
        out, n = b"", len(members)
        for i, (address, source) in enumerate(members):
            hashes = b"".join(members[(i - back) % n][1] for back in range(3))
            secrets = blake3(hashes + struct.pack("<QQ", i, 0),
                             derive_key_context="self_encryption/chunk/v2").digest(length=96)
            stored = self.chunk(address)
            pad = (secrets[:52] * (len(stored) // 52 + 1))[:len(stored)]
            text = (int.from_bytes(stored, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(stored), "big")
            encoded = sodium.crypto_aead_chacha20poly1305_ietf_decrypt(text, b"", secrets[84:], secrets[52:84])
            assert any(keyed(derive("realm: source hash key", self.of_epoch("realm: content kind key", e)), encoded)
                       == source for e in self.secrets)
            piece = brotli.decompress(encoded)
            assert len(piece) == min(max(size - (i << bits), 0), 1 << bits)
            out += piece
        assert len(out) == size
        return out


def lay(out, at, data):
    n = max(0, min(len(out) - at, len(data)))
    out[at:at + n] = data[:n]


def xattrs(data):
    r = Reader(data)
    out = {r.bytes(): r.bytes() for _ in range(r.var())}
    r.end()
    assert out and list(out) == sorted(out)
    return out


def read_map(r):
    height = r.u8()
    return (height, r.raw(32), r.raw(32), r.var()) if height else None


def read_segment(r):
    flags, base = r.u8(), None
    assert flags in (0, 1, 3)
    if flags & 1:
        bits, size = r.u8(), r.var()
        members = [(r.raw(32), r.raw(32)) for _ in range(max(3, -(-size // (1 << bits))))]
        shown, stale = r.var(), r.var()
        holes = int.from_bytes(r.raw(32), "little") if flags & 2 else 0
        base = bits, size, members, shown, stale, holes
    extents, at = [], 0
    for _ in range(r.var()):
        at += r.var()
        length = r.var()
        extents.append((at, length, r.var(), r.var(), r.raw(32), r.raw(32)))
        at += length
    assert base or extents
    return base, extents


def read_blob(r):
    form = r.u8()
    if form == 0:
        return (0,)
    if form == 1:
        return 1, r.bytes()
    if form == 2:
        start = r.at
        read_segment(r)
        return 2, r.data[start:r.at]
    assert form == 3
    return 3, r.var(), read_map(r)


# --- The state directory ---

class State:
    def __init__(self, drive, path):
        self.drive, self.path = drive, path
        r = self.file("key", 1)
        epoch = r.u32()
        wrap = derive("state: wrapping key",
                      drive.secrets[epoch] + drive.drive + drive.realm + struct.pack("<I", epoch))
        self.local = open_seal(STATE, wrap, drive.realm, r.data[:r.at], r.rest())
        d = Reader(self.record("device", 2))
        self.device, _seed, self.number, self.incarnation = d.raw(16), d.raw(32), d.u32(), d.raw(16)
        d.end()
        m = Reader(self.record("memory", 3))
        self.seen = m.u64(), m.raw(32)
        self.base = m.u64(), m.raw(32)
        m.end()

    def file(self, name, record):
        r = Reader(open(os.path.join(self.path, name), "rb").read())
        assert r.raw(11) == b"nacre state" and (r.u16(), r.u8(), r.u8()) == (1, 1, record)
        assert (r.raw(16), r.raw(16)) == (self.drive.drive, self.drive.realm)
        return r

    def record(self, name, record):
        r = self.file(name, record)
        return open_seal(STATE, derive("state: record key", self.local), self.drive.realm, r.data[:r.at], r.rest())

    def journal(self, floor):
        """The records after `floor`, as docs/FORMAT.md, "What counts", has it: {lsn: bytes}."""
        key = derive("state: journal key", self.local)
        headers, files = derive("journal: file headers", key), derive("journal: file keys", key)
        known, found, cuts = 0, [], []
        where = os.path.join(self.path, "journal")
        for name in sorted(n for n in os.listdir(where) if n.startswith("journal-")):
            data = open(os.path.join(where, name), "rb").read()
            r = Reader(data[:4096])
            assert r.raw(8) == b"nacrejnl" and (r.u16(), r.u8()) == (1, 1)
            flags, zero, realm, file, durable, salt = r.u8(), r.u32(), r.raw(16), r.u64(), r.u64(), r.raw(32)
            assert flags in (0, 1) and zero == 0 and realm == self.drive.realm and name == "journal-%016x" % file
            assert r.raw(32) == keyed(headers, data[:80]) and not any(r.rest())
            known = max(known, durable)
            if flags:
                cuts.append((file, durable))
            life, at = keyed(files, data[:80]), 4096
            while at + 40 <= len(data):
                head = data[at:at + 40]
                first, count, n, durable = struct.unpack("<QIIQ", head[16:])
                step = 4096
                if head[:16] == b"nacrefrm" + salt[:8]:
                    try:
                        body = open_seal(JOURNAL, life, self.drive.realm, struct.pack("<Q", file) + head,
                                         data[at + 40:at + 40 + n])
                    except Exception:
                        body = None  # torn
                    if body is not None:
                        assert first > durable
                        known = max(known, durable)
                        r = Reader(body)
                        found += [(file, first + i, r.raw(r.u32())) for i in range(count)]
                        r.end()
                        step = -(-(40 + n) // 4096) * 4096
                at += step
        records = {}
        for file, lsn, record in found:
            if not any(file < by and lsn > durable for by, durable in cuts):
                assert records.setdefault(lsn, record) == record
        last = floor
        while last + 1 in records:
            last += 1
        assert known <= last, f"record {last + 1} was durable and is missing"
        return {lsn: records[lsn] for lsn in range(floor + 1, last + 1)}


def read_record(data):
    """A record of the journal: (places, time, operation, its fields)."""
    r = Reader(data)
    places = [(r.var(), r.var(), r.u64()) for _ in range(r.var())]
    time, op = r.time(), r.u8()
    at = lambda: (r.var(), r.bytes())
    flag = lambda: {0: False, 1: True}[r.u8()]
    if op == 1:
        f = dict(at=at(), ino=r.var(), type=r.u8(), perm=r.var(), uid=r.var(), gid=r.var(), rdev=r.var(),
                 target=r.bytes(), xattrs=[(r.bytes(), r.bytes()) for _ in range(r.var())])
    elif op == 2:
        f = dict(ino=r.var(), at=at())
    elif op == 3:
        f = dict(at=at(), ino=r.var())
    elif op == 4:
        f = {"from": at(), "to": at(), "ino": r.var()}
        flags = r.u8()
        assert flags < 8
        f["exchange"] = bool(flags & 2)
        if flags & 1:
            f["replaced"] = r.var()
        if flags & 4:
            f["whiteout"] = r.var(), r.var(), r.var()
    elif op == 5:
        f = dict(ino=r.var(), at=r.var(), kill_suid=flag(), data=r.raw(len(r.rest())))
    elif op == 6:
        f = dict(ino=r.var(), at=r.var(), len=r.var(), size=r.var(), kill_suid=flag())
    elif op == 7:
        f = dict(ino=r.var())
        flags = r.u8()
        assert flags < 64
        for bit, field in enumerate("perm uid gid size atime mtime".split()):
            if flags >> bit & 1:
                f[field] = r.time() if bit > 3 else r.var()
    elif op == 8:
        f = dict(ino=r.var(), name=r.bytes(), value=r.bytes(), drop_sgid=flag())
    else:
        assert op == 9
        f = dict(ino=r.var(), name=r.bytes())
    r.end()
    names = "create link remove rename write hole setattr setxattr removexattr".split()
    return places, time, names[op - 1], f


# --- Commands ---

def attributes(inode):
    return {"mode": TYPES[inode["type"]] | inode["perm"], "uid": inode["uid"], "gid": inode["gid"],
            "nlink": inode["nlink"], "mtime": inode["mtime"], "rdev": inode["rdev"], "ino": inode["ino"],
            "xattrs": inode["xattrs"]()}


def tree(drive):
    for path, inode in drive.walk():
        a = attributes(inode)
        print(f"{a['mode']:o} {a['nlink']} {a['uid']} {a['gid']} {inode['size']} {path!r}")


def cat(drive, path):
    for found, inode in drive.walk():
        if found == os.fsencode(path).strip(b"/"):
            sys.stdout.buffer.write(drive.content(inode) if inode["type"] == FILE else inode["content"])
            return
    raise SystemExit(f"{path}: no such file")


def state(drive, path):
    s = State(drive, path)
    number, lsn, counter, seen = drive.devices.get(s.device, (0, 0, 0, None))
    print(f"device {s.device.hex()} number {s.number}, newest head seen {s.seen[0]}, committed up to {lsn}")
    for lsn, record in s.journal(lsn).items():
        _, _, op, fields = read_record(record)
        if "data" in fields:
            fields["data"] = f"{len(fields['data'])} bytes"
        print(lsn, op, fields)


def compare(drive, mount):
    """Holds the newest version against the mounted drive: names, attributes, contents. Returns the files."""
    seen, files = set(), 0
    for path, inode in drive.walk():
        real = os.path.join(os.fsencode(mount), path) if path else os.fsencode(mount)
        st, a = os.lstat(real), attributes(inode)
        want = (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_mtime_ns, st.st_ino)
        have = tuple(a[k] for k in ("mode", "uid", "gid", "nlink", "mtime", "ino"))
        assert want == have, f"{path}: {want} is not {have}"
        if inode["type"] in (6, 7):
            assert (os.major(st.st_rdev), os.minor(st.st_rdev)) == (a["rdev"] >> 8 & 0xfff,
                                                                    a["rdev"] & 0xff | a["rdev"] >> 12 & 0xfff00)
        names = {os.fsencode(n) for n in os.listxattr(real, follow_symlinks=False)}
        assert {n: os.getxattr(real, n, follow_symlinks=False) for n in names} == a["xattrs"], path
        if inode["type"] == FILE:
            assert open(real, "rb").read() == drive.content(inode), f"{path}: other bytes"
            assert st.st_size == inode["size"], path
            assert inode["content"][0] != 3 or inode["content"][1] * PAGE == inode["allocated"], path
        elif inode["type"] == LINK:
            assert os.readlink(real) == inode["content"]
        elif inode["type"] == DIR:
            names = os.listdir(real)
            assert len(names) == inode["size"]
        seen.add(path)
        files += inode["type"] != DIR
    there = {os.path.relpath(os.path.join(d, n), os.fsencode(mount))
             for d, ds, fs in os.walk(os.fsencode(mount)) for n in ds + fs} | {b""}
    assert there == seen, there ^ seen
    assert drive.counts[0] == len({i["ino"] for _, i in drive.walk() if i["type"] != DIR})
    return files


def fill(root):
    """Something of every form that the format has."""
    p = lambda *names: os.path.join(root, *names)
    def write(name, data):
        with open(p(name), "wb") as f:
            f.write(data)
    noise = blake3(b"noise").digest(length=3 << 20)
    text = b"".join(b"line %d of many\n" % i for i in range(150_000))
    write("empty", b"")
    write("inline", b"a few bytes")
    write("text", text[:20_000])
    write("segment", noise[:700_000])
    write("large", text + noise)
    write("edited", noise)
    for at in (5, 123_456, 1 << 20, (2 << 20) + 70_000):
        with open(p("edited"), "r+b") as f:
            f.seek(at)
            f.write(b"edited here")
    with open(p("sparse"), "wb") as f:
        f.seek(5 << 20)
        f.write(text[:300_000])
        f.truncate(50 << 20)
    subprocess.run(["fallocate", "-p", "-o", "8192", "-l", "65536", p("segment")], check=True)
    os.makedirs(p("dir", "deep", "er"))
    os.mkdir(p("many"))
    for i in range(600):
        write(f"many/file number {i}", b"%d" % i * (i % 90))
    os.link(p("text"), p("dir", "text again"))
    os.link(p("text"), p("dir", "deep", "and again"))
    os.symlink("somewhere/else", p("link"))
    os.mkfifo(p("fifo"))
    write("dir/bytes \udcff in a name", b"x")
    os.setxattr(p("inline"), "user.small", b"value")
    os.setxattr(p("text"), "user.large", noise[:3000])
    os.setxattr(p("dir"), "user.of a directory", b"")
    os.chmod(p("segment"), 0o4751)
    os.utime(p("empty"), ns=(1, -5_000_000_123))
    if os.geteuid() == 0:
        os.chown(p("link"), 12, 34, follow_symlinks=False)
        os.mknod(p("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))


def test(nacrefs):
    passed = 0

    def say(what):
        nonlocal passed
        passed += 1
        print("ok", what, flush=True)

    with tempfile.TemporaryDirectory(prefix="nacre-format-") as dir:
        mount, store, key, where = (os.path.join(dir, n) for n in ("mnt", "store", "key", "state"))
        os.mkdir(mount)
        env = dict(os.environ, NACREFS_STATE_DIR=where)
        run = lambda *args: subprocess.run([nacrefs, *args], env=env, check=True, stdout=subprocess.DEVNULL)
        run("init", "--key-file", key, store)
        # Committed only when asked, so that the journal keeps what comes after.
        run("mount", "--key-file", key, "-o", "commit=3600", store, mount)
        try:
            fill(mount)
            run("sync", mount)
            files = compare(Drive(store, key), mount)
            say(f"a version, read from its store alone, is what is mounted: {files} files")
            with open(os.path.join(mount, "large"), "r+b") as f:
                f.seek(1_000_000)
                f.write(b"changed")
            os.remove(os.path.join(mount, "text"))
            os.rename(os.path.join(mount, "link"), os.path.join(mount, "many", "link"))
            run("sync", mount)
            drive = Drive(store, key)
            compare(drive, mount)
            say(f"so is one that was made from it: version {drive.version}")
            with open(os.path.join(mount, "new"), "wb") as f:
                f.write(b"not committed")
                f.flush()
                os.fsync(f.fileno())
            s = State(drive, where)
            assert drive.version <= s.seen[0]
            records = [read_record(r) for r in s.journal(drive.devices[s.device][1]).values()]
            ops = [(op, f) for _, _, op, f in records]
            assert any(op == "create" and f["at"] == (1, b"new") for op, f in ops), ops
            assert any(op == "write" and f["data"] == b"not committed" for op, f in ops), ops
            say(f"the journal has what is not committed: {len(records)} records")
        finally:
            subprocess.run([nacrefs, "umount", mount], env=env, stdout=subprocess.DEVNULL)
    print(f"{passed} passed, 0 failed")


def main(line):
    if len(line) == 2 and line[0] == "test":
        return test(os.path.abspath(line[1]))
    commands = {"tree": (tree, 3), "cat": (cat, 4), "state": (state, 4)}
    if not line or line[0] not in commands or len(line) != commands[line[0]][1]:
        raise SystemExit(__doc__)
    commands[line[0]][0](Drive(line[1], line[2]), *line[3:])


if __name__ == "__main__":
    main(sys.argv[1:])
