//! The keyring on a real file system: crashes at every step, damage, and who
//! may read it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tipsec-keyring-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Numbers of the keys by role: staged, active, previous; 0 for none.
type Shape = [u8; 3];

fn masters(shape: Shape) -> Masters<MasterKey> {
    let key = |n: u8| MasterKey::from_octets(&[n; 32]).unwrap();
    let some = |n| (n != 0).then(|| key(n));
    Masters::new(key(shape[1]), some(shape[0]), some(shape[2]))
}

fn shape(masters: &Masters<MasterKey>) -> Shape {
    let first = |key: Option<&MasterKey>| key.map_or(0, |key| key.octets()[0]);
    [
        first(masters.staged()),
        masters.active().octets()[0],
        first(masters.previous()),
    ]
}

fn stored(shapes: &[Shape]) -> (Directory, Keyring) {
    let directory = Directory::new();
    let keyring = Keyring::open(&directory.0).unwrap();
    for &shape in shapes {
        keyring.store(&masters(shape)).unwrap();
    }
    (directory, keyring)
}

/// What is loaded, and whether from the older copy.
fn loaded(keyring: &Keyring) -> Option<(Shape, bool)> {
    let loaded = keyring.load().unwrap()?;
    Some((shape(&loaded.masters), loaded.fallback.is_some()))
}

/// What a damage of the newest file would fall back to holds no other keys.
fn assert_older_adds_no_key(directory: &Directory, told: &str) {
    let keys = |name| {
        let text = fs::read(directory.0.join(name)).ok()?;
        file::parse(&text).ok()
    };
    if let (Some(newest), Some(older)) = (keys(NEWEST), keys(OLDER)) {
        let (newest_shape, older_shape) = (shape(&newest), shape(&older));
        assert!(
            newest.holds_all_of(&older),
            "{told}: {newest_shape:?} before {older_shape:?}"
        );
    }
}

fn error(keyring: &Keyring) -> String {
    match keyring.load() {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Each step of a rotation and beside it: before and after.
const CHANGES: [(Option<Shape>, Shape); 7] = [
    (None, [0, 1, 0]),
    (Some([0, 1, 0]), [2, 1, 0]),
    (Some([2, 1, 0]), [0, 2, 1]),
    (Some([0, 2, 1]), [0, 2, 0]),
    (Some([2, 1, 0]), [3, 1, 0]),
    (Some([0, 2, 1]), [3, 2, 1]),
    (Some([3, 2, 1]), [0, 4, 0]),
];

#[test]
fn keys_are_kept_and_replaced() {
    let (directory, keyring) = stored(&[]);
    assert!(loaded(&keyring).is_none());
    for (_, after) in CHANGES {
        keyring.store(&masters(after)).unwrap();
        assert_eq!(loaded(&keyring), Some((after, false)));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&keyring.path()), 0o600);
        assert_eq!(mode(&directory.0.join(OLDER)), 0o600);
        assert_eq!(mode(&directory.0), 0o700);
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 2);
    }
}

#[test]
fn a_crash_after_any_step_leaves_the_old_keys_or_the_new_ones() {
    for (before, after) in CHANGES {
        let (_directory, keyring) = stored(before.as_slice());
        let count = keyring.steps(&masters(after)).len();
        for taken in 0..=count {
            let (directory, keyring) = stored(before.as_slice());
            let steps = keyring.steps(&masters(after));
            let mut renamed = false;
            for step in &steps[..taken] {
                step.take(&directory.0).unwrap();
                renamed |= matches!(step, Step::Rename(NEWEST));
            }
            let expected = if renamed { Some(after) } else { before };
            let found = loaded(&keyring);
            let told = format!("{before:?} to {after:?}, {taken} of {count}");
            assert_eq!(found, expected.map(|shape| (shape, false)), "{told}");
            assert_older_adds_no_key(&directory, &told);
            // And whatever the crash left is no obstacle.
            keyring.store(&masters(after)).unwrap();
            assert_eq!(loaded(&keyring), Some((after, false)), "{told}");
        }
    }
}

/// The names of a directory and what is behind them.
type Names = std::collections::BTreeMap<&'static str, String>;

/// Every state that a power loss during these steps may leave: names may be
/// lost since the last sync of the directory, and what is being written may be
/// there to any part.
fn after_power_loss(before: &Names, steps: &[Step]) -> Vec<Names> {
    let (mut durable, mut all) = (before.clone(), vec![before.clone()]);
    let mut present = before.clone();
    let mut temporary = String::new();
    for step in steps {
        match step {
            Step::Remove(name) => drop(present.remove(name)),
            Step::Write(text) => {
                for part in 0..=text.len() {
                    let mut torn = present.clone();
                    torn.insert("master.new", text[..part].to_owned());
                    all.push(torn);
                }
                temporary = text.to_string();
                present.insert("master.new", temporary.clone());
            }
            Step::Rename(name) => {
                present.remove("master.new");
                present.insert(name, temporary.clone());
            }
            Step::SyncDirectory => durable = present.clone(),
        }
        all.extend([durable.clone(), present.clone()]);
    }
    all
}

#[test]
fn a_power_loss_at_any_moment_leaves_the_old_keys_or_the_new_ones() {
    for (before, after) in CHANGES {
        let (directory, keyring) = stored(before.as_slice());
        let names: Names = [NEWEST, OLDER]
            .into_iter()
            .filter_map(|name| Some((name, fs::read_to_string(directory.0.join(name)).ok()?)))
            .collect();
        let states = after_power_loss(&names, &keyring.steps(&masters(after)));
        assert!(states.len() > 100);
        for state in states {
            for name in [NEWEST, OLDER, "master.new"] {
                let path = directory.0.join(name);
                let _ = fs::remove_file(&path);
                if let Some(text) = state.get(name) {
                    fs::write(&path, text).unwrap();
                    set_mode(&path, 0o600);
                }
            }
            let found = loaded(&keyring);
            let expected = [before, Some(after)].map(|shape| shape.map(|shape| (shape, false)));
            assert!(
                expected.contains(&found),
                "{before:?} to {after:?}: {found:?}"
            );
            assert_older_adds_no_key(&directory, &format!("{before:?} to {after:?}"));
        }
    }
}

#[test]
fn a_damaged_file_gives_way_to_its_copy_and_never_brings_a_dropped_key_back() {
    for (before, after) in CHANGES {
        let (directory, keyring) = stored(before.as_slice());
        keyring.store(&masters(after)).unwrap();
        let good = fs::read(keyring.path()).unwrap();
        let mut fallbacks = 0;
        let parts = (0..good.len()).map(|len| good[..len].to_vec());
        let flipped = (0..good.len()).map(|at| {
            let mut bad = good.clone();
            bad[at] ^= 1;
            bad
        });
        for bad in parts.chain(flipped) {
            fs::write(keyring.path(), &bad).unwrap();
            let (found, fallback) = loaded(&keyring).unwrap();
            assert!(fallback, "{bad:?} was taken");
            let held = masters(after);
            let known = masters(found);
            assert!(
                held.holds_all_of(&known),
                "{before:?}, {after:?}: {found:?}"
            );
            fallbacks += 1;
        }
        assert_eq!(fallbacks, 2 * good.len());
        // The next step does not keep what is damaged.
        keyring.store(&masters(after)).unwrap();
        assert_eq!(loaded(&keyring), Some((after, false)));
        let older = fs::read(directory.0.join(OLDER)).unwrap();
        assert!(file::parse(&older).is_ok());
    }
}

#[test]
fn a_retired_key_is_in_no_file() {
    let (directory, _keyring) = stored(&[[0, 1, 0], [2, 1, 0], [0, 2, 1], [0, 2, 0]]);
    for entry in fs::read_dir(&directory.0).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(text.contains(&"02".repeat(32)));
        assert!(!text.contains(&"01".repeat(32)));
    }
}

#[test]
fn two_damaged_files_are_named_and_left_as_they_are() {
    let (directory, keyring) = stored(&[[0, 1, 0]]);
    for bad in [
        "",
        "hello",
        "tipsec keyring 3\n",
        "tipsec keyring 2\nactive",
    ] {
        fs::write(keyring.path(), bad).unwrap();
        fs::write(directory.0.join(OLDER), bad).unwrap();
        let message = error(&keyring);
        assert!(message.contains("is damaged"), "{message}");
        assert_eq!(fs::read_to_string(keyring.path()).unwrap(), bad);
    }
}

#[test]
fn a_copy_alone_is_not_taken_silently() {
    let (directory, keyring) = stored(&[[0, 1, 0]]);
    fs::remove_file(keyring.path()).unwrap();
    let message = error(&keyring);
    assert!(
        message.contains("is gone") && message.contains("master.1"),
        "{message}"
    );
    fs::rename(directory.0.join(OLDER), keyring.path()).unwrap();
    assert_eq!(loaded(&keyring), Some(([0, 1, 0], false)));
}

#[test]
fn files_that_others_may_read_are_refused() {
    let (directory, keyring) = stored(&[[0, 1, 0]]);
    for mode in [0o640, 0o604, 0o620, 0o601] {
        set_mode(&keyring.path(), mode);
        assert!(error(&keyring).contains("chmod 0600"), "{mode:o}");
    }
    set_mode(&keyring.path(), 0o400);
    assert!(keyring.load().is_ok());
    // A copy that others may have written is none.
    set_mode(&keyring.path(), 0o600);
    fs::write(keyring.path(), "damaged").unwrap();
    set_mode(&directory.0.join(OLDER), 0o660);
    assert!(error(&keyring).contains("is damaged"));
    set_mode(&directory.0, 0o770);
    assert!(matches!(
        Keyring::open(&directory.0),
        Err(KeyringError::Mode { .. })
    ));
}

#[test]
fn links_and_directories_are_refused() {
    let (directory, keyring) = stored(&[[0, 1, 0]]);
    let elsewhere = directory.0.join("elsewhere");
    fs::rename(keyring.path(), &elsewhere).unwrap();
    symlink(&elsewhere, keyring.path()).unwrap();
    assert!(matches!(keyring.load(), Err(KeyringError::NotAFile(_))));
    fs::remove_file(keyring.path()).unwrap();
    fs::create_dir(keyring.path()).unwrap();
    assert!(matches!(keyring.load(), Err(KeyringError::NotAFile(_))));
}

#[test]
fn a_file_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED (needs root): a keyring of another user");
        return;
    }
    let (_directory, keyring) = stored(&[[0, 1, 0]]);
    std::os::unix::fs::chown(keyring.path(), Some(54321), None).unwrap();
    assert!(error(&keyring).contains("user 54321"));
}
