//! Inputs of `member` that get somewhere. Imports nothing but for its test.

pub(in crate::machine) fn seeds() -> Vec<Vec<u8>> {
    // m1, installed, m3, opens, a probe's answer.
    let exchange = |name: u8, how: u8| vec![0, name, how, 2, 3, how, 8, 0, 0, 9, 0, 0];
    let whole = exchange(0, 1);
    let two = [exchange(0, 1), exchange(1, 2), vec![11, 0x0f, 0xff]].concat();
    // The victim's own exchanges: it hears of the node by the first.
    let answered = [exchange(0, 1), vec![11, 8, 0, 5, 0x10, 11, 8, 0, 5, 1]].concat();
    let again = (0..12)
        .flat_map(|_| [exchange(0, 1), vec![10, 200]].concat())
        .collect();
    let lives = [
        exchange(0, 1),
        exchange(0, 0x11),
        exchange(0, 1),
        exchange(0, 0x11),
    ]
    .concat();
    let hellos = [
        exchange(2, 1),
        vec![9, 11, 0, 99, 6, 1, 0, 6, 9, 0, 6, 4, 0],
    ]
    .concat();
    // An edit of m1's lanes, of an offer's count of SPIs, of its suite.
    let lying = vec![
        0, 0, 0x81, 1, 0, 0, 25, 0xff, 0, 1, 1, 2, 3, 0x81, 1, 0, 0x80, 8, 0x20, 3, 0x81, 1, 0, 0,
        5, 9,
    ];
    // Without the cookie that it is given; with it, and an edit of its MAC address.
    let unshown = [exchange(0, 0x41), vec![0, 0, 0x81, 1, 1, 0, 32, 9]].concat();
    vec![whole, two, answered, again, lives, hellos, lying, unshown]
}

#[cfg(test)]
mod tests {
    use super::super::Attack;
    use super::seeds;
    use crate::input::Input;

    #[test]
    fn a_seed_installs_both_directions() {
        let mut attack = Attack::new();
        let data = &seeds()[0];
        let mut input = Input::new(data);
        while !input.is_empty() {
            attack.step(&mut input);
        }
        assert!(!attack.receiving.0.is_empty(), "no SA to receive with");
        assert!(!attack.sending.0.is_empty(), "no SA to send with");
        assert_eq!(attack.cookies.len(), 1, "it came by a cookie");
    }
}
