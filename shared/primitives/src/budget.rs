//! Budgets: limits of the units (connections, bytes) in use at once, in total and for each holder.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// A number of units, of which each holder (a key of type `K`) may reserve a part.
pub struct Budget<K> {
    total: usize,
    reserved: Mutex<Reserved<K>>,
}

/// Units in use.
struct Reserved<K> {
    total: usize,
    by_holder: HashMap<K, usize>,
}

/// Units of a budget that are in use by one holder, until this value is dropped.
pub struct Reservation<K: Hash + Eq> {
    budget: Arc<Budget<K>>,
    holder: K,
    units: usize,
}

/// The limit that refused a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The total of the budget.
    Total,
    /// The limit of this holder.
    Holder,
}

impl<K: Hash + Eq + Clone> Budget<K> {
    /// Creates a budget of `total` units.
    pub fn new(total: usize) -> Arc<Self> {
        let reserved = Mutex::new(Reserved { total: 0, by_holder: HashMap::new() });
        Arc::new(Self { total, reserved })
    }

    /// Reserves units for a holder, who may have at most `max` units in all its reservations.
    pub fn reserve(
        self: &Arc<Self>,
        holder: K,
        units: usize,
        max: usize,
    ) -> Result<Reservation<K>, Exhausted> {
        let mut reservation = Reservation { budget: self.clone(), holder, units: 0 };
        reservation.grow(units, max)?;
        Ok(reservation)
    }
}

impl<K: Hash + Eq + Clone> Reservation<K> {
    /// Reserves more units for the same holder.
    pub fn grow(&mut self, units: usize, max: usize) -> Result<(), Exhausted> {
        let mut reserved = self.budget.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let of_holder = reserved.by_holder.get(&self.holder).copied().unwrap_or_default();
        if reserved.total.saturating_add(units) > self.budget.total {
            return Err(Exhausted::Total);
        }
        if of_holder.saturating_add(units) > max {
            return Err(Exhausted::Holder);
        }
        reserved.total += units;
        reserved.by_holder.insert(self.holder.clone(), of_holder + units);
        self.units += units;
        Ok(())
    }
}

impl<K: Hash + Eq> Drop for Reservation<K> {
    fn drop(&mut self) {
        let mut reserved = self.budget.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.total -= self.units;
        if let Some(of_holder) = reserved.by_holder.get_mut(&self.holder) {
            *of_holder -= self.units;
            if *of_holder == 0 {
                reserved.by_holder.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_stay_within_the_limit_of_a_holder_and_the_total() {
        let budget = Budget::new(5);
        let one = budget.reserve("a", 3, 3).unwrap();
        assert_eq!(budget.reserve("a", 1, 3).err(), Some(Exhausted::Holder));
        let mut two = budget.reserve("b", 1, 3).unwrap();
        two.grow(1, 3).unwrap();
        assert_eq!(two.grow(1, 3), Err(Exhausted::Total));
        assert_eq!(budget.reserve("c", 1, 3).err(), Some(Exhausted::Total));
        drop(one);
        drop(budget.reserve("c", 3, 3).unwrap());
        drop(two);
        let reserved = budget.reserved.lock().unwrap();
        assert_eq!(reserved.total, 0);
        assert!(reserved.by_holder.is_empty(), "holders without reservations are removed");
    }
}
