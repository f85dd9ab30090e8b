//! Fuzz target: access decisions after any history, compared with the naive reference model.

use bolero::check;

use super::{apply, compare, dice::Dice, world};

/// The input is a seed of the random operations (`Dice`) and the length of the history.
#[test]
fn any_history_is_decided_as_the_reference_does() {
    check!().with_type::<(u64, u8)>().for_each(|(seed, length)| {
        let mut dice = Dice::new(*seed);
        let (mut model, mut snapshot) = world();
        for _ in 0..length % 64 {
            let op = dice.op();
            let allowed = model.apply(op);
            if allowed {
                apply(&mut snapshot, op);
            }
        }
        // After every twentieth history, Explain and `ListWhoCan` are compared, too.
        let all = seed % 20 == 0;
        compare(&model, &snapshot, all).unwrap();
    });
}
