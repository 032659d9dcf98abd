"""Start programs: qemu-img and qemu-nbd, confined by Landlock, and virsh, unconfined."""
