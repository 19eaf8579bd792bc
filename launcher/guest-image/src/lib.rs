//! Kernels, kernel modules and initramfs archives: finding, unpacking and assembling them.
