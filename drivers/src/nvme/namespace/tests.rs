//! What controllers may say, sensible and absurd.

use proptest::prelude::*;
use zerocopy::{FromBytes, FromZeros};

use super::*;

fn says() -> Says<'static> {
    Says {
        address: "test",
        max_transfer: Some(512 << 10),
        min_page_shift: 12,
        commands: NvmCommands::WRITE_ZEROES | NvmCommands::DATASET_MANAGEMENT,
        sgl: true,
        identify: Box::leak(Box::new(IdentifyController::new_zeroed())),
        nvm: Some((0, 0, 0)),
    }
}

fn identify(data_shift: u8, blocks: u64) -> Box<IdentifyNamespace> {
    let mut identify = Box::new(IdentifyNamespace::new_zeroed());
    identify.nsze.set(blocks);
    identify.formats[0].data_shift = data_shift;
    identify
}

fn open(says: &Says<'_>, identify: &IdentifyNamespace) -> Result<Namespace, NvmeError> {
    says.namespace(Nsid(1), identify, true)
}

#[test]
fn every_block_size_from_512_to_64_kib_is_served() {
    for shift in 9..=16 {
        let namespace = open(&says(), &identify(shift, 1000)).unwrap();
        assert_eq!(namespace.limits.request_alignment, 1 << shift);
        assert_eq!((namespace.blocks << namespace.block_shift), 1000 << shift);
        namespace.limits.validate().unwrap();
    }
}

#[test]
fn absurd_namespaces_are_refused_by_name() {
    let cases: [(&str, Box<IdentifyNamespace>); 6] = [
        ("LBADS is 8", identify(8, 1000)),
        ("LBADS is 17", identify(17, 1000)),
        ("LBADS is 0", identify(0, 1000)),
        ("NSZE is 0", identify(9, 0)),
        ("NSZE is 18446744073709551615", identify(9, u64::MAX)),
        ("FLBAS is 3", {
            let mut identify = identify(9, 1000);
            identify.flbas = 3;
            identify
        }),
    ];
    for (what, identify) in cases {
        let error = open(&says(), &identify).expect_err(what).to_string();
        assert!(error.contains(what), "{error} should name {what}");
    }
    let small = Says { max_transfer: Some(4096), ..says() };
    assert!(open(&small, &identify(13, 10)).expect_err("a block above MDTS").to_string().contains("MDTS"));
}

#[test]
fn metadata_is_refused_with_the_way_out() {
    let mut identify = identify(9, 1000);
    identify.formats[0].metadata_bytes.set(8);
    (identify.nlbaf, identify.formats[1].data_shift) = (1, 12);
    let error = open(&says(), &identify).expect_err("metadata").to_string();
    assert!(error.contains("8 bytes of metadata") && error.contains("--lbaf=1"), "{error}");
    identify.nlbaf = 0;
    let error = open(&says(), &identify).expect_err("metadata").to_string();
    assert!(!error.contains("--lbaf"), "{error}");
}

#[test]
fn limits_come_from_the_device() {
    let mut identify = identify(12, 1 << 20);
    identify.nsfeat = 1 << 4;
    identify.nows.set(31);
    identify.npdg.set(15);
    let says = Says { nvm: Some((4, 1000, 0)), ..says() };
    let limits = open(&says, &identify).unwrap().limits;
    assert_eq!((limits.max_transfer, limits.opt_transfer), (512 << 10, 128 << 10));
    assert_eq!(limits.pdiscard_alignment, 64 << 10);
    assert_eq!(limits.max_pdiscard, (1000 << 12) / (64 << 10) * (64 << 10));
    assert_eq!(limits.max_pwrite_zeroes, 64 << 10);
    limits.validate().unwrap();
}

#[test]
fn without_limits_of_the_device_there_are_those_of_the_commands() {
    let says = Says { max_transfer: None, ..says() };
    let limits = open(&says, &identify(9, 1 << 30)).unwrap().limits;
    assert_eq!(u64::from(limits.max_transfer), MAX_TRANSFER_BYTES);
    assert_eq!(limits.max_pwrite_zeroes, 65_536 * 512);
    assert_eq!(limits.max_pdiscard, u64::from(u32::MAX) * 512);
    let silent = Says { nvm: None, max_transfer: Some(8192), ..self::says() };
    assert_eq!(open(&silent, &identify(9, 100)).unwrap().limits.max_pwrite_zeroes, 8192);
}

proptest! {
    #[test]
    fn whatever_a_device_says_the_limits_hold_together(
        bytes in prop::collection::vec(any::<u8>(), 384), shift in 0u8..20, nlbaf in 0u8..70, mdts in 0u32..24,
        wzsl: u8, dmrsl: u32, dmsl: u64, plain: bool,
    ) {
        let mut whole = vec![0; 4096];
        whole[..384].copy_from_slice(&bytes);
        let mut identify = IdentifyNamespace::read_from_bytes(&whole).unwrap();
        identify.nlbaf = nlbaf;
        let index = identify.format_index() % 64;
        identify.formats[index].data_shift = shift;
        if plain {
            identify.formats[index].metadata_bytes.set(0);
            identify.nsze.set(identify.nsze.get() >> 30);
        }
        let max_transfer = (mdts > 0).then(|| 4096 << mdts);
        let says = Says { max_transfer, nvm: Some((wzsl, dmrsl, dmsl)), ..says() };
        if let Ok(namespace) = open(&says, &identify) {
            prop_assert_eq!(namespace.limits.validate(), Ok(()));
            prop_assert!((namespace.blocks << namespace.block_shift) <= MAX_LENGTH_BYTES);
        }
    }
}
