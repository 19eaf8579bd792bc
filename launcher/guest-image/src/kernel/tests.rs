use super::header::testing::bzimage;
use super::*;
use std::fs;

struct Machine {
    folder: tempfile::TempDir,
    cache: Cache,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("cache"));
        Self { folder, cache }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn image(&self, path: &str, release: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bzimage(release, b"")).unwrap();
        path
    }

    fn modules(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn cached(&self, release: &str) {
        self.image(&format!("cache/kernels/{release}/boot/vmlinuz-{release}"), release);
        self.modules(&format!("cache/kernels/{release}/lib/modules/{release}"));
    }

    fn find(&self, kernel: Option<&Path>, modules: Option<&Path>) -> Result<Kernel, FindError> {
        Search { modules, cache: &self.cache, system: &self.path("system"), running: "5.10.0" }.find(kernel)
    }
}

#[test]
fn the_named_kernel_wins_then_the_newest_cached_then_the_running_one() {
    let machine = Machine::new();
    machine.image("system/boot/vmlinuz-5.10.0", "5.10.0");
    machine.modules("system/lib/modules/5.10.0");
    assert_eq!(machine.find(None, None).unwrap().release, "5.10.0");
    machine.cached("6.1.0-9");
    machine.cached("6.1.0-10");
    fs::create_dir_all(machine.path("cache/kernels/6.2.0")).unwrap();
    assert_eq!(machine.find(None, None).unwrap().release, "6.1.0-10", "an incomplete one does not count");
    let named = machine.path("cache/kernels/6.1.0-9/boot/vmlinuz-6.1.0-9");
    assert_eq!(machine.find(Some(&named), None).unwrap().release, "6.1.0-9");
}

#[test]
fn modules_are_found_beside_the_kernel_in_the_cache_or_in_the_system() {
    let machine = Machine::new();
    let package = machine.image("package/boot/vmlinuz", "6.5.0");
    let beside = machine.modules("package/usr/lib/modules/6.5.0");
    let found = machine.find(Some(&package), None).unwrap().modules;
    assert_eq!(found.canonicalize().unwrap(), beside.canonicalize().unwrap());

    machine.cached("6.6.0");
    let alone = machine.image("elsewhere/kernel", "6.6.0");
    let expected = machine.path("cache/kernels/6.6.0/lib/modules/6.6.0");
    assert_eq!(machine.find(Some(&alone), None).unwrap().modules, expected);

    let alone = machine.image("elsewhere/kernel", "6.7.0");
    let expected = machine.modules("system/lib/modules/6.7.0");
    assert_eq!(machine.find(Some(&alone), None).unwrap().modules, expected);
}

#[test]
fn named_modules_are_taken_as_they_are() {
    let machine = Machine::new();
    machine.cached("6.1.0");
    let named = machine.modules("elsewhere/modules");
    assert_eq!(machine.find(None, Some(&named)).unwrap().modules, named);
    let kernel = machine.image("elsewhere/kernel", "6.9.0");
    let found = machine.find(Some(&kernel), Some(&named)).unwrap();
    assert_eq!(found, Kernel { image: kernel, modules: named, release: "6.9.0".into() });
}

#[test]
fn what_is_missing_is_named_with_where_it_was_looked_for_and_the_fix() {
    let machine = Machine::new();
    let contains = |error: FindError, parts: &[&str]| {
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    };
    contains(machine.find(None, None).unwrap_err(), &["cache/kernels", "vmlinuz-5.10.0", "make kernel", "--kernel"]);
    let none = machine.path("none");
    contains(machine.find(Some(&none), None).unwrap_err(), &["none", "No such file", "--kernel"]);
    contains(machine.find(None, Some(&none)).unwrap_err(), &["none", "--modules DIR"]);
    let kernel = machine.image("kernel", "6.9.0");
    let looked_for = ["6.9.0", "cache/kernels/6.9.0/lib/modules/6.9.0", "system/lib/modules/6.9.0", "--modules DIR"];
    contains(machine.find(Some(&kernel), None).unwrap_err(), &looked_for);
    let text = machine.path("text");
    fs::write(&text, "not a kernel").unwrap();
    contains(machine.find(Some(&text), None).unwrap_err(), &["text", "not a kernel", "--kernel"]);
}
