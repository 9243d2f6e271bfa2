//! The master keys that a node holds at once, by role, and the steps of a
//! rotation: `stage`, `activate`, `retire`. Generic, because the keyring holds
//! the keys themselves and the key machine what is derived from them. Imports
//! `master`.

use std::fmt;

use tipsec_dataplane::ids::MasterId;

use crate::master::MasterKey;

/// What a master key is for at this node; later in a key's life is less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Was active before: still taken, until it is retired.
    Previous,
    /// Exchanges are started under it.
    Active,
    /// Taken already, but exchanges are started under it only with a peer that
    /// has it active.
    Staged,
}

impl Role {
    /// Name in files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Previous => "previous",
            Self::Active => "active",
            Self::Staged => "staged",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One to three keys: there is always an active one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Masters<K> {
    active: K,
    staged: Option<K>,
    previous: Option<K>,
}

impl<K> Masters<K> {
    /// A node outside of any rotation.
    pub const fn only(active: K) -> Self {
        Self::new(active, None, None)
    }

    /// These keys, which the caller knows to be different.
    pub const fn new(active: K, staged: Option<K>, previous: Option<K>) -> Self {
        Self {
            active,
            staged,
            previous,
        }
    }

    /// The key that exchanges are started under.
    pub const fn active(&self) -> &K {
        &self.active
    }

    /// The key that is active next.
    pub const fn staged(&self) -> Option<&K> {
        self.staged.as_ref()
    }

    /// The key that was active before.
    pub const fn previous(&self) -> Option<&K> {
        self.previous.as_ref()
    }

    /// All keys, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = (Role, &K)> {
        let staged = self.staged().map(|key| (Role::Staged, key));
        let previous = self.previous().map(|key| (Role::Previous, key));
        staged
            .into_iter()
            .chain([(Role::Active, &self.active)])
            .chain(previous)
    }

    /// Something of each key, in the same roles.
    pub fn map<T>(&self, mut of: impl FnMut(&K) -> T) -> Masters<T> {
        Masters {
            active: of(&self.active),
            staged: self.staged().map(&mut of),
            previous: self.previous().map(of),
        }
    }
}

impl Masters<MasterId> {
    /// The role of the key with this id.
    pub fn role_of(&self, id: MasterId) -> Option<Role> {
        let found = self.iter().find(|(_, held)| **held == id);
        found.map(|(role, _)| role)
    }
}

/// Why a step of a rotation cannot be taken. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StepError {
    /// `stage` of the active key.
    #[error("this key is the active one already; stage a new one (`master generate` makes it)")]
    IsActive,
    /// `stage` or `set` of the key that is being retired.
    #[error(
        "this key is the previous one, which the rotation under way retires; `master retire` first"
    )]
    IsPrevious,
    /// `set` of the staged key.
    #[error("this key is staged: `master activate` makes it the active one")]
    IsStaged,
    /// `stage` while another one is staged.
    #[error(
        "another key is staged already: `master activate` it, or put this one in its place with \
         `master stage --replace`"
    )]
    OtherStaged,
    /// `activate` with nothing staged, outside of a rotation.
    #[error("no key is staged: `master stage` the new one on every node first")]
    NothingStaged,
    /// `activate` before the last rotation has ended.
    #[error(
        "the key of the rotation before last is still held as the previous one: `master retire` \
         it first"
    )]
    PreviousHeld,
}

/// The keys after a step, and whether it changed anything: a step that was
/// taken already is no error, so that it can be repeated over all nodes.
pub type Stepped = (Masters<MasterKey>, bool);

impl Masters<MasterKey> {
    /// The role that this key has here.
    pub fn role_of_key(&self, key: &MasterKey) -> Option<Role> {
        let found = self.iter().find(|(_, held)| held.same_as(key));
        found.map(|(role, _)| role)
    }

    /// Whether every key of `other` is held here too, in whatever role.
    pub fn holds_all_of(&self, other: &Self) -> bool {
        other.iter().all(|(_, key)| self.role_of_key(key).is_some())
    }

    /// Takes the next key; `replace`: in place of one that is staged.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn stage(self, key: MasterKey, replace: bool) -> Result<Stepped, StepError> {
        match self.role_of_key(&key) {
            Some(Role::Staged) => Ok((self, false)),
            Some(Role::Active) => Err(StepError::IsActive),
            Some(Role::Previous) => Err(StepError::IsPrevious),
            None if self.staged.is_some() && !replace => Err(StepError::OtherStaged),
            None => {
                let staged = Some(key);
                Ok((Self { staged, ..self }, true))
            }
        }
    }

    /// Makes the staged key the active one, and that the previous one.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn activate(self) -> Result<Stepped, StepError> {
        match (self.staged, self.previous) {
            (Some(_), Some(_)) => Err(StepError::PreviousHeld),
            (Some(staged), None) => Ok((Self::new(staged, None, Some(self.active)), true)),
            // Done before, and not retired yet.
            (None, Some(previous)) => Ok((Self::new(self.active, None, Some(previous)), false)),
            (None, None) => Err(StepError::NothingStaged),
        }
    }

    /// Forgets the previous key.
    pub fn retire(self) -> Stepped {
        let changed = self.previous.is_some();
        let previous = None;
        (Self { previous, ..self }, changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> MasterKey {
        MasterKey::from_octets(&[n; 16]).unwrap()
    }

    /// First octets by role: staged, active, previous; 0 for none.
    fn shape(masters: &Masters<MasterKey>) -> [u8; 3] {
        let first = |key: Option<&MasterKey>| key.map_or(0, |key| key.octets()[0]);
        [
            first(masters.staged()),
            masters.active().octets()[0],
            first(masters.previous()),
        ]
    }

    fn of(shape: [u8; 3]) -> Masters<MasterKey> {
        let some = |n| (n != 0).then(|| key(n));
        Masters::new(key(shape[1]), some(shape[0]), some(shape[2]))
    }

    fn after(stepped: Result<Stepped, StepError>) -> Result<([u8; 3], bool), StepError> {
        stepped.map(|(masters, changed)| (shape(&masters), changed))
    }

    #[test]
    fn a_rotation_is_three_steps_each_of_which_may_be_repeated() {
        let staged = of([0, 1, 0]).stage(key(2), false);
        assert_eq!(after(staged), Ok(([2, 1, 0], true)));
        let again = of([2, 1, 0]).stage(key(2), false);
        assert_eq!(after(again), Ok(([2, 1, 0], false)));
        assert_eq!(after(of([2, 1, 0]).activate()), Ok(([0, 2, 1], true)));
        assert_eq!(after(of([0, 2, 1]).activate()), Ok(([0, 2, 1], false)));
        assert_eq!(after(Ok(of([0, 2, 1]).retire())), Ok(([0, 2, 0], true)));
        assert_eq!(after(Ok(of([0, 2, 0]).retire())), Ok(([0, 2, 0], false)));
    }

    #[test]
    fn steps_out_of_order_are_refused() {
        let stage = |shape, n, replace| after(of(shape).stage(key(n), replace));
        assert_eq!(stage([0, 1, 0], 1, true), Err(StepError::IsActive));
        assert_eq!(stage([0, 2, 1], 1, true), Err(StepError::IsPrevious));
        assert_eq!(stage([2, 1, 0], 3, false), Err(StepError::OtherStaged));
        assert_eq!(stage([2, 1, 0], 3, true), Ok(([3, 1, 0], true)));
        // The next rotation may be prepared before the last one has ended.
        assert_eq!(stage([0, 2, 1], 3, false), Ok(([3, 2, 1], true)));
        let activate = |shape| after(of(shape).activate());
        assert_eq!(activate([0, 1, 0]), Err(StepError::NothingStaged));
        assert_eq!(activate([3, 2, 1]), Err(StepError::PreviousHeld));
    }

    #[test]
    fn keys_are_listed_newest_first() {
        let masters = of([3, 2, 1]);
        let listed: Vec<_> = masters
            .iter()
            .map(|(role, k)| (role, k.octets()[0]))
            .collect();
        assert_eq!(
            listed,
            [(Role::Staged, 3), (Role::Active, 2), (Role::Previous, 1)]
        );
        assert!(Role::Staged > Role::Active && Role::Active > Role::Previous);
        assert!(masters.holds_all_of(&of([0, 1, 2])));
        assert!(!of([0, 1, 2]).holds_all_of(&masters));
    }
}
