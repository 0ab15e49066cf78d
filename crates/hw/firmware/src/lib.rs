//! Device trees, fw_cfg, image loading, the reset vector and the built-in SBI.

pub mod fdt;
pub mod fw_cfg;
pub mod load;
pub mod reset_vector;
pub mod sbi;
