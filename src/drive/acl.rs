//! POSIX ACLs: the kernel checks them (`default_permissions`); keeping them true to the mode, and handing
//! them down, is ours (acl(5); the bytes are `posix_acl_xattr`, version 2).

pub const ACCESS: &[u8] = b"system.posix_acl_access";
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Item {
    tag: u16,
    perm: u16,
    id: u32,
}

/// An access control list, in the order it was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl(Vec<Item>);

impl Acl {
    /// None where the bytes are not a valid ACL.
    pub fn parse(bytes: &[u8]) -> Option<Acl> {
        let (version, mut rest) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || rest.len() % 8 != 0 {
            return None;
        }
        let mut items = Vec::with_capacity(rest.len() / 8);
        while let Some(([t0, t1, p0, p1, id @ ..], tail)) = rest.split_first_chunk::<8>() {
            let tag = u16::from_le_bytes([*t0, *t1]);
            let perm = u16::from_le_bytes([*p0, *p1]);
            let known = matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER);
            if !known || perm > 7 {
                return None;
            }
            items.push(Item { tag, perm, id: u32::from_le_bytes(*id) });
            rest = tail;
        }
        let acl = Acl(items);
        let one = |tag| acl.0.iter().filter(|i| i.tag == tag).count() == 1;
        let named = acl.0.iter().any(|i| i.tag == USER || i.tag == GROUP);
        let masks = acl.0.iter().filter(|i| i.tag == MASK).count();
        let whole = one(USER_OBJ) && one(GROUP_OBJ) && one(OTHER) && masks <= 1 && (!named || masks == 1);
        whole.then_some(acl)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for i in &self.0 {
            out.extend_from_slice(&i.tag.to_le_bytes());
            out.extend_from_slice(&i.perm.to_le_bytes());
            out.extend_from_slice(&i.id.to_le_bytes());
        }
        out
    }

    fn get(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|i| i.tag == tag).map(|i| i.perm)
    }

    fn set(&mut self, tag: u16, perm: u16) {
        self.0.iter_mut().filter(|i| i.tag == tag).for_each(|i| i.perm = perm);
    }

    /// The permission bits that go with the list: the group's are the mask's, where there is one.
    pub fn mode(&self) -> u16 {
        let group = self.get(MASK).or(self.get(GROUP_OBJ)).unwrap_or(0);
        self.get(USER_OBJ).unwrap_or(0) << 6 | group << 3 | self.get(OTHER).unwrap_or(0)
    }

    /// Whether it says no more than permission bits can.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|i| matches!(i.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// The list after `chmod`: the group bits go to the mask, where there is one.
    pub fn chmod(&mut self, perm: u16) {
        self.set(USER_OBJ, perm >> 6 & 7);
        self.set(OTHER, perm & 7);
        let group = if self.get(MASK).is_some() { MASK } else { GROUP_OBJ };
        self.set(group, perm >> 3 & 7);
    }

    /// What a new file gets from its directory's default list: the access list, and the permission bits, both
    /// within what the creator asked for.
    pub fn inherit(&self, perm: u16) -> (Acl, u16) {
        let mut acl = self.clone();
        let and = |acl: &mut Acl, tag, bits: u16| {
            if let Some(p) = acl.get(tag) {
                acl.set(tag, p & bits);
            }
        };
        and(&mut acl, USER_OBJ, perm >> 6 & 7);
        and(&mut acl, OTHER, perm & 7);
        let group = if acl.get(MASK).is_some() { MASK } else { GROUP_OBJ };
        and(&mut acl, group, perm >> 3 & 7);
        let mode = perm & 0o7000 | acl.mode();
        (acl, mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(items: &[(u16, u16, u32)]) -> Acl {
        Acl(items.iter().map(|&(tag, perm, id)| Item { tag, perm, id }).collect())
    }

    #[test]
    fn lists_keep_in_step_with_the_mode() {
        let mut a =
            acl(&[(USER_OBJ, 7, !0), (USER, 6, 1000), (GROUP_OBJ, 5, !0), (MASK, 6, !0), (OTHER, 0, !0)]);
        assert_eq!(Acl::parse(&a.to_bytes()), Some(a.clone()));
        assert_eq!(a.mode(), 0o760);
        assert!(!a.is_plain());
        a.chmod(0o640);
        assert_eq!((a.mode(), a.get(GROUP_OBJ), a.get(MASK)), (0o640, Some(5), Some(4)));
        let (child, mode) = a.inherit(0o2666);
        assert_eq!((mode, child.get(USER)), (0o2640, Some(6)));
    }

    #[test]
    fn what_is_not_a_list_is_refused() {
        let whole = acl(&[(USER_OBJ, 7, !0), (GROUP_OBJ, 5, !0), (OTHER, 0, !0)]).to_bytes();
        assert!(Acl::parse(&whole).is_some_and(|a| a.is_plain()));
        assert!(Acl::parse(&whole[..whole.len() - 8]).is_none());
        assert!(Acl::parse(&whole[1..]).is_none());
        let named = acl(&[(USER_OBJ, 7, !0), (USER, 7, 5), (GROUP_OBJ, 5, !0), (OTHER, 0, !0)]).to_bytes();
        assert!(Acl::parse(&named).is_none(), "named entries need a mask");
    }
}
