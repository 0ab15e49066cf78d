//! Device trees, fw_cfg, image loading and the built-in SBI.
