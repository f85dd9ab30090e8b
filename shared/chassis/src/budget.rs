//! Budgets: how much of something may be in use at once, in all and by each holder.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// Units that are shared by holders of type `K`.
pub(crate) struct Budget<K> {
    total: usize,
    used: Mutex<Used<K>>,
}

struct Used<K> {
    total: usize,
    by_holder: HashMap<K, usize>,
}

/// Units that are in use until this is dropped.
pub(crate) struct Share<K: Hash + Eq> {
    budget: Arc<Budget<K>>,
    holder: K,
    units: usize,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exhausted {
    /// That of all holders together.
    Total,
    /// That of this holder.
    Holder,
}

impl<K: Hash + Eq + Clone> Budget<K> {
    pub(crate) fn new(total: usize) -> Arc<Self> {
        let used = Mutex::new(Used { total: 0, by_holder: HashMap::new() });
        Arc::new(Self { total, used })
    }

    /// Takes units for a holder, who may have `max` of them.
    pub(crate) fn take(
        self: &Arc<Self>,
        holder: K,
        units: usize,
        max: usize,
    ) -> Result<Share<K>, Exhausted> {
        let mut share = Share { budget: self.clone(), holder, units: 0 };
        share.grow(units, max)?;
        Ok(share)
    }
}

impl<K: Hash + Eq + Clone> Share<K> {
    /// Takes more units for the same holder.
    pub(crate) fn grow(&mut self, units: usize, max: usize) -> Result<(), Exhausted> {
        let mut used = self.budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        let held = used.by_holder.get(&self.holder).copied().unwrap_or_default();
        if used.total.saturating_add(units) > self.budget.total {
            return Err(Exhausted::Total);
        }
        if held.saturating_add(units) > max {
            return Err(Exhausted::Holder);
        }
        used.total += units;
        used.by_holder.insert(self.holder.clone(), held + units);
        self.units += units;
        Ok(())
    }
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        let mut used = self.budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.total -= self.units;
        if let Some(held) = used.by_holder.get_mut(&self.holder) {
            *held -= self.units;
            if *held == 0 {
                used.by_holder.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_takes_no_more_than_its_share_and_all_no_more_than_there_is() {
        let budget = Budget::new(5);
        let one = budget.take("a", 3, 3).unwrap();
        assert_eq!(budget.take("a", 1, 3).err(), Some(Exhausted::Holder));
        let mut two = budget.take("b", 1, 3).unwrap();
        two.grow(1, 3).unwrap();
        assert_eq!(two.grow(1, 3), Err(Exhausted::Total));
        assert_eq!(budget.take("c", 1, 3).err(), Some(Exhausted::Total));
        drop(one);
        drop(budget.take("c", 3, 3).unwrap());
        drop(two);
        let used = budget.used.lock().unwrap();
        assert_eq!(
            (used.total, used.by_holder.len()),
            (0, 0),
            "nothing is left of holders that are gone"
        );
    }
}
