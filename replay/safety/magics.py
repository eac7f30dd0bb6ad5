"""Bytes by which formats are recognised on a device."""

from __future__ import annotations

from dataclasses import dataclass

from kvtrace.units import GIB, KIB, MIB


@dataclass(frozen=True, slots=True)
class Magic:
    """Bytes that a format has at a fixed place; a negative offset counts from the end.

    `unit`: the end is rounded down to a multiple of it first.
    """

    name: str
    offset: int
    value: bytes
    unit: int = 1

    def place(self, size: int) -> int:
        """Return its offset on a device of `size` bytes."""
        return self.offset if self.offset >= 0 else size // self.unit * self.unit + self.offset


# Formats that `blkid -p` knows stand here too, because it doesn't report all of them by default: a
# backup partition table without its primary, or a superblock whose checksum is wrong.
# Source: util-linux, libblkid/src/superblocks/*.c and partitions/gpt.c; linux,
# include/uapi/linux/raid/md_p.h; qemu, docs/interop/qcow2.rst; each format's own header else.
MAGICS = (
    Magic("gpt", 512, b"EFI PART"),
    Magic("gpt", 4096, b"EFI PART"),
    Magic("gpt", -512, b"EFI PART"),
    Magic("gpt", -4096, b"EFI PART"),
    Magic("ntfs", 3, b"NTFS    "),
    Magic("ntfs", -509, b"NTFS    "),
    Magic("BitLocker", 3, b"-FVE-FS-"),
    Magic("exfat", 3, b"EXFAT   "),
    Magic("vfat", 54, b"FAT"),
    Magic("vfat", 82, b"FAT32   "),
    Magic("apfs", 32, b"NXSB"),
    Magic("hfsplus", 1024, b"H+\0\x04"),
    Magic("hfsplus", 1024, b"HX\0\x05"),
    Magic("ext", 1080, b"\x53\xef"),
    Magic("ext", 8193 * KIB + 56, b"\x53\xef"),
    Magic("ext", 32768 * 4 * KIB + 56, b"\x53\xef"),
    Magic("xfs", 0, b"XFSB"),
    Magic("btrfs", 64 * KIB + 64, b"_BHRfS_M"),
    Magic("btrfs", 64 * MIB + 64, b"_BHRfS_M"),
    Magic("btrfs", 256 * GIB + 64, b"_BHRfS_M"),
    Magic("bcachefs", 4120, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    Magic("bcachefs", 2 * MIB + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    Magic("bcachefs", -MIB + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    Magic("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    Magic("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    Magic("nilfs2", 1030, b"\x34\x34"),
    Magic("jfs", 32 * KIB, b"JFS1"),
    Magic("reiserfs", 64 * KIB + 52, b"ReIsEr"),
    Magic("gfs2", 64 * KIB, b"\x01\x16\x19\x70"),
    *(Magic("ocfs2", at * KIB, b"OCFSV2") for at in (1, 2, 4, 8)),
    Magic("ufs", 8192 + 1372, b"\x54\x19\x01\x00"),
    Magic("ufs", 64 * KIB + 1372, b"\x19\x01\x54\x19"),
    Magic("squashfs", 0, b"hsqs"),
    Magic("iso9660", 32769, b"CD001"),
    Magic("udf", 32769, b"BEA01"),
    *(Magic("swap", at * KIB - 10, b"SWAPSPACE2") for at in (4, 8, 16, 32, 64)),
    *(Magic("swap", at * KIB - 10, b"SWAP-SPACE") for at in (4, 8, 16, 32, 64)),
    Magic("VMFS_volume_member", MIB, b"\x0d\xd0\x01\xc0"),
    Magic("VMFS", 2 * MIB, b"\x5e\xf1\xab\x2f"),
    Magic("zfs_member", 128 * KIB, b"\x0c\xb1\xba\0\0\0\0\0"),
    Magic("zfs_member", 128 * KIB, b"\0\0\0\0\0\xba\xb1\x0c"),
    Magic("crypto_LUKS", 0, b"LUKS\xba\xbe"),
    *(Magic("crypto_LUKS", at * KIB, b"SKUL\xba\xbe") for at in (16, 32, 64, 128, 256, 512)),
    *(Magic("LVM2_member", sector * 512, b"LABELONE") for sector in range(4)),
    Magic("linux_raid_member", 0, b"\xfc\x4e\x2b\xa9"),
    Magic("linux_raid_member", 4096, b"\xfc\x4e\x2b\xa9"),
    Magic("linux_raid_member", -64 * KIB, b"\xfc\x4e\x2b\xa9", unit=64 * KIB),
    Magic("linux_raid_member", -8 * KIB, b"\xfc\x4e\x2b\xa9", unit=4 * KIB),
    Magic("isw_raid_member", -1024, b"Intel Raid ISM Cfg Sig. "),
    Magic("ddf_raid_member", -512, b"\xde\x11\xde\x11"),
    Magic("ddf_raid_member", -512, b"\x11\xde\x11\xde"),
    Magic("drbd", -4096 + 60, b"\x83\x74\x02\x6b", unit=4096),
    Magic("drbd", -4096 + 60, b"\x83\x74\x02\x6c", unit=4096),
    Magic("drbd", -4096 + 60, b"\x83\x74\x02\x6d", unit=4096),
    Magic("bcache", 4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    *(Magic("stratis", at, b"!Stra0tis\x86\xff\x02^\x41rh") for at in (516, 4612)),
    Magic("DM_snapshot_cow", 0, b"SnAp"),
    Magic("DM_verity_hash", 0, b"verity\0\0"),
    Magic("DM_integrity", 0, b"integrt\0"),
    Magic("ceph_bluestore", 0, b"bluestore block device"),
    Magic("oracleasm", 32, b"ORCLDISK"),
    Magic("vdo", 0, b"dmvdo001"),
    Magic("qcow2", 0, b"QFI\xfb"),
    Magic("vmdk", 0, b"KDMV"),
    Magic("vdi", 64, b"\x7f\x10\xda\xbe"),
    Magic("vhdx", 0, b"vhdxfile"),
    Magic("vhd", -512, b"conectix"),
    Magic("tar", 257, b"ustar"),
    Magic("cpio", 0, b"07070"),
    Magic("gzip", 0, b"\x1f\x8b\x08"),
    Magic("zstd", 0, b"\x28\xb5\x2f\xfd"),
    Magic("xz", 0, b"\xfd7zXZ\0"),
    Magic("bzip2", 0, b"BZh"),
    Magic("7z", 0, b"7z\xbc\xaf\x27\x1c"),
    Magic("zip", 0, b"PK\x03\x04"),
    Magic("sqlite", 0, b"SQLite format 3\0"),
    Magic("parquet", 0, b"PAR1"),
    Magic("hdf5", 0, b"\x89HDF\r\n\x1a\n"),
    Magic("elf", 0, b"\x7fELF"),
)
