//! Fuzz target: access decisions after any history, against the naive reference.

use bolero::check;

use super::{agree, dice::Dice, play, world};

/// The numbers of an input are the throws of the dice that choose the operations.
#[test]
fn any_history_is_decided_as_the_reference_does() {
    check!().with_type::<(u64, u8)>().for_each(|(seed, length)| {
        let (mut dice, (mut model, mut snapshot)) = (Dice::new(*seed), world());
        for _ in 0..length % 64 {
            let op = dice.op();
            if model.apply(op) {
                play(&mut snapshot, op);
            }
        }
        agree(&model, &snapshot, seed % 20 == 0).unwrap();
    });
}
