//! Random operations from a seed, so that a failure can be reproduced.

use super::reference::{Holder, Id, Op};

/// A pseudorandom generator (xorshift64*).
pub(super) struct Dice(u64);

/// Number of people.
pub(super) const USERS: Id = 5;
/// Number of teams of an organization.
pub(super) const TEAMS: Id = 2;
/// Number of projects of an organization.
pub(super) const PROJECTS: Id = 2;

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number from 0 to `count` - 1.
    pub(super) fn below(&mut self, count: u8) -> u8 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        u8::try_from(value % u64::from(count)).unwrap()
    }

    fn holder(&mut self) -> Holder {
        if self.below(2) == 0 {
            Holder::User(self.below(USERS))
        } else {
            Holder::Team(self.below(TEAMS))
        }
    }

    /// The next operation.
    pub(super) fn op(&mut self) -> Op {
        // Three of four operations are by user 0, who is the first Owner, so that most are allowed.
        let by = if self.below(4) == 0 { self.below(USERS) } else { 0 };
        let user = self.below(USERS);
        let team = self.below(TEAMS);
        let project = self.below(PROJECTS);
        let role = 1 + self.below(3);
        match self.below(20) {
            0..=3 => Op::Join { user, role },
            4 | 5 => Op::ChangeRole { by, user, role },
            6 => Op::Remove { by, user },
            7 => Op::Leave { user },
            8 => Op::Transfer { by, to: user },
            9 | 10 => Op::CreateTeam { by, team },
            11 => Op::DeleteTeam { by, team },
            12 | 13 => Op::AddToTeam { by, team, user },
            14 => Op::RemoveFromTeam { by, team, user },
            15 | 16 => Op::Grant { by, project, holder: self.holder(), role },
            _ => Op::Revoke { by, project, holder: self.holder() },
        }
    }
}

/// Name of an operation, for statistics.
pub(super) fn kind(op: Op) -> String {
    format!("{op:?}").split(' ').next().unwrap_or_default().to_owned()
}
