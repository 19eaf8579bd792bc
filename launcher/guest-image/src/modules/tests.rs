use super::*;
use crate::compression::testing::{gzip, xz, zstd};

/// The smallest ELF file with a `.modinfo`: header, the section, section names, three section headers.
fn module(modinfo: &str) -> Vec<u8> {
    const HEADER: usize = 64;
    let names = b"\0.modinfo\0.shstrtab\0";
    let names_at = HEADER + modinfo.len();
    let sections_at = names_at + names.len();
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([1, 0, 62, 0, 1, 0, 0, 0]); // relocatable, x86-64, version 1
    bytes.extend([0; 16]);
    bytes.extend((sections_at as u64).to_le_bytes());
    bytes.extend([0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 64, 0, 3, 0, 2, 0]); // sizes; three sections, names in the last
    bytes.extend(modinfo.as_bytes());
    bytes.extend(names);
    bytes.extend([0; 64]);
    for (name, kind, at, length) in [(1u32, 1u32, HEADER, modinfo.len()), (10, 3, names_at, names.len())] {
        bytes.extend(name.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend((at as u64).to_le_bytes());
        bytes.extend((length as u64).to_le_bytes());
        bytes.extend([0; 24]);
    }
    bytes
}

struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (path, content) in files {
            let path = tree.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        tree
    }

    fn resolve(&self, names: &[&str]) -> Result<Vec<Module>, ModulesError> {
        ModuleTree::open(self.0.path()).unwrap().resolve(names)
    }

    fn names(&self, names: &[&str]) -> Vec<String> {
        self.resolve(names).unwrap().into_iter().map(|module| module.name).collect()
    }
}

#[test]
fn what_is_needed_comes_first_and_once() {
    let tree = Tree::new(&[
        ("kernel/net/9p/9pnet.ko", module("depends=\0")),
        ("kernel/net/9p/9pnet_virtio.ko", module("depends=virtio,9pnet,virtio_ring\0")),
        ("kernel/fs/9p/9p.ko", module("depends=9pnet,netfs\0")),
        ("kernel/fs/netfs/netfs.ko", module("depends=\0")),
        ("kernel/drivers/virtio/virtio.ko", module("depends=\0")),
        ("kernel/drivers/virtio/virtio_ring.ko", module("depends=virtio\0")),
    ]);
    let expected = ["virtio", "9pnet", "virtio_ring", "9pnet_virtio", "netfs", "9p"];
    assert_eq!(tree.names(&["9pnet_virtio", "9p", "9p"]), expected);
}

#[test]
fn built_in_modules_are_left_out() {
    let tree = Tree::new(&[
        ("modules.builtin", b"kernel/drivers/virtio/virtio.ko\nkernel/fs/ext4/ext4.ko\n".to_vec()),
        ("kernel/virtio-rng.ko", module("depends=virtio\0")),
    ]);
    assert_eq!(tree.names(&["ext4", "virtio_rng"]), ["virtio_rng"]);
}

#[test]
fn dash_and_underscore_are_the_same() {
    let tree = Tree::new(&[("kernel/virtio-rng.ko", module("depends=rng-core\0")), ("kernel/rng_core.ko", module(""))]);
    assert_eq!(tree.names(&["virtio_rng"]), tree.names(&["virtio-rng"]));
    assert_eq!(tree.names(&["virtio-rng"]), ["rng_core", "virtio_rng"]);
}

#[test]
fn soft_dependencies_are_taken_when_they_are_there() {
    let ext4 = ("kernel/fs/ext4.ko", module("depends=\0softdep=pre: crypto-crc32c\0"));
    let generic = ("kernel/crypto/crc32c_generic.ko", module(""));
    assert_eq!(Tree::new(&[ext4.clone(), generic]).names(&["ext4"]), ["crc32c_generic", "ext4"]);
    assert_eq!(Tree::new(&[ext4]).names(&["ext4"]), ["ext4"]);
}

#[test]
fn compressed_modules_are_read_like_others_also_by_modules_order() {
    let content = module("depends=\0");
    let files = [
        ("modules.order", b"kernel/a.ko\nkernel/b.ko\nkernel/c.ko\n".to_vec()),
        ("kernel/a.ko.xz", xz(&content)),
        ("kernel/b.ko.zst", zstd(&content)),
        ("kernel/c.ko.gz", gzip(&content)),
        ("extra/not-in-the-order.ko", content.clone()),
    ];
    let tree = Tree::new(&files);
    let modules = tree.resolve(&["a", "b", "c", "not-in-the-order"]).unwrap();
    assert_eq!(modules.len(), 4);
    for module in modules {
        assert_eq!(module.load().unwrap(), content, "{}", module.name);
    }
}

#[test]
fn a_missing_module_is_named_with_its_tree_and_the_fix() {
    let tree = Tree::new(&[("kernel/9p.ko", module("depends=netfs\0"))]);
    let message = tree.resolve(&["9p"]).unwrap_err().to_string();
    for part in ["netfs", "needed by 9p", tree.0.path().to_str().unwrap(), "--modules DIR", "make kernel"] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    assert!(!tree.resolve(&["overlay"]).unwrap_err().to_string().contains("needed by"));
}

#[test]
fn broken_trees_are_errors() {
    let tree = Tree::new(&[
        ("kernel/a.ko", module("depends=b\0")),
        ("kernel/b.ko", module("depends=a\0")),
        ("kernel/text.ko", b"no module".to_vec()),
        ("kernel/cut.ko.xz", xz(&module(""))[..40].to_vec()),
    ]);
    assert!(matches!(tree.resolve(&["a"]), Err(ModulesError::Circle { .. })));
    assert!(matches!(tree.resolve(&["text"]), Err(ModulesError::NotAModule { .. })));
    assert!(matches!(tree.resolve(&["cut"]), Err(ModulesError::Damaged { .. })));
    assert!(matches!(ModuleTree::open(&tree.0.path().join("none")), Err(ModulesError::File(_))));
}
