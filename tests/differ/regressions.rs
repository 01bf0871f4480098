//! What was different once: each by the name of the failure that it prevents.

use crate::arena::Arena;
use crate::calls::*;
use libc::*;

/// Makes the calls of each case on ext4 and on one drive.
fn alike(cases: &[(&str, &[Step])]) {
    let mut arena = Arena::new();
    for (name, steps) in cases {
        if let Err(failure) = arena.run(steps, 1) {
            panic!("{name}: after call {}: {}", failure.at + 1, failure.difference.says);
        }
    }
}

#[test]
fn names_are_as_on_ext4() {
    alike(&[(
        "a whiteout belongs to who renames, not to the owner of what was renamed",
        &[
            Step(ANN, Call::Mkdir { path: "c", mode: Mode(0o644) }),
            Step(ROOT, Call::Rename { from: "c", to: "a", flags: Ren(RENAME_FLAG_WHITEOUT) }),
        ],
    )]);
}

#[test]
fn attributes_are_as_on_ext4() {
    let made = Step(ROOT, Call::Mkdir { path: "d", mode: Mode(0o755) });
    let remove = |name| Step(ROOT, Call::RemoveXattr { path: "d", name, follow: true });
    let get = |name| Step(ROOT, Call::GetXattr { path: "d", name, room: 100, follow: true });
    let capable = Call::SetXattr {
        path: "d",
        name: "security.capability",
        len: 20,
        fill: 0,
        flags: Xattr(0),
        follow: true,
    };
    let given = Step(ROOT, Call::Chown { path: "d", uid: 1001, gid: -1, flags: At(0) });
    let set = Step(
        ROOT,
        Call::SetXattr { path: "d", name: "user.a", len: 3, fill: 1, flags: Xattr(0), follow: true },
    );
    alike(&[
        (
            "what is in no space is not supported, and a space's prefix alone is invalid, whatever is asked",
            &[
                made,
                remove("a"),
                remove("nowhere.x"),
                remove("user."),
                get("a"),
                get("nowhere.x"),
                get("user."),
            ],
        ),
        ("a directory that is given away keeps its attributes", &[made, Step(ROOT, capable), given]),
        (
            "an access list that says what is so already changes nothing, not even the ctime",
            &[
                Step(ROOT, Call::Mknod { path: "a", mode: Mode(S_IFREG | 0o640), dev: 0 }),
                Step(ROOT, Call::SetAcl { path: "a", default: false, acl: 0 }),
                Step(ROOT, Call::SetAcl { path: "a", default: false, acl: 1 }),
                Step(ROOT, Call::SetAcl { path: "a", default: false, acl: 1 }),
            ],
        ),
        ("setting an attribute to what it is changes nothing, not even the ctime", &[made, set, set]),
    ]);
}

#[test]
fn times_are_as_on_ext4() {
    alike(&[(
        "reading with O_NOATIME leaves the access time as it is",
        &[
            Step(ROOT, Call::Open { slot: 0, path: "a", flags: Open(O_RDWR | O_CREAT), mode: Mode(0o644) }),
            Step(ROOT, Call::Write { slot: 0, len: 5000, fill: 1 }),
            Step(
                ROOT,
                Call::Utimens { path: "a", atime: When::At(1, 0), mtime: When::At(5, 0), flags: At(0) },
            ),
            // So that the bytes are in no cache of the kernel.
            Step(ROOT, Call::Remount {}),
            Step(ROOT, Call::Open { slot: 0, path: "a", flags: Open(O_NOATIME), mode: Mode(0) }),
            Step(ROOT, Call::Read { slot: 0, len: 100 }),
        ],
    )]);
}

#[test]
fn suid_and_sgid_go_as_on_ext4() {
    let open =
        |path| Step(ROOT, Call::Open { slot: 0, path, flags: Open(O_RDWR | O_CREAT), mode: Mode(0o777) });
    let pass = Step(ROOT, Call::Pass { slot: 0, to: 1 });
    let allocate = Step(ANN, Call::Fallocate { slot: 0, mode: Alloc(0), at: 0, len: 1 });
    let punch = Alloc(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE);
    alike(&[
        (
            "who was given a file that only its owner can open for writing takes suid away by an allocation",
            &[
                open("a"),
                pass,
                Step(ROOT, Call::Chmod { path: "a", mode: Mode(0o4514), flags: At(0) }),
                allocate,
            ],
        ),
        (
            "and sgid by a hole",
            &[
                open("b"),
                Step(ROOT, Call::Chmod { path: "b", mode: Mode(0o2155), flags: At(0) }),
                pass,
                Step(ANN, Call::Fallocate { slot: 0, mode: punch, at: 0, len: 1 }),
            ],
        ),
    ]);
}
