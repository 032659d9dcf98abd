"""The one room that starts programs, confined by Landlock: qemu-img, and qemu-nbd for exports."""
