# make qemu: make check on microcontrollers emulated by QEMU: flash, RAM, stack, and instructions, counted by its clock (-icount).
TOOLS_arm = gcc-arm-none-eabi picolibc-arm-none-eabi qemu-system-arm
TOOLS_rv32 = gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf qemu-system-misc
ARM = arm-none-eabi- -mthumb -mfloat-abi=hard
BUILD_m4 = $(ARM) -mcpu=cortex-m4 -mfpu=fpv4-sp-d16
BUILD_m7 = $(ARM) -mcpu=cortex-m7 -mfpu=fpv5-d16
BUILD_m33 = $(ARM) -mcpu=cortex-m33 -mfpu=fpv5-sp-d16
BUILD_rv32 = riscv64-unknown-elf- -march=rv32imac -mabi=ilp32
PLAY_m4 = qemu-system-arm -M mps2-an386
PLAY_m7 = qemu-system-arm -M mps2-an500
PLAY_m33 = qemu-system-arm -M mps2-an505
PLAY_rv32 = qemu-system-riscv32 -M virt -bios none
FLASH_m4 = 0x00000000,--defsym=__flash_size=0x400000,--defsym=__ram=0x20000000
FLASH_m7 = $(FLASH_m4)
FLASH_m33 = 0x10000000,--defsym=__flash_size=0x400000,--defsym=__ram=0x38000000
FLASH_rv32 = 0x80000000,--defsym=__flash_size=0x1000000,--defsym=__ram=0x81000000
PLACES = -Wl,--defsym=__flash=$(FLASH_$*),--defsym=__ram_size=0x200000,--defsym=__stack_size=8192
PREFIX = $(firstword $(BUILD_$*))
BOARD_CC = $(PREFIX)gcc $(wordlist 2,9,$(BUILD_$*)) -O2 -Wall -Wextra $(STANDARD) -DON_BOARD --specs=picolibc.specs

qemu: qemu_m4 qemu_m7 qemu_m33 qemu_rv32

qemu_%: check.c board.h golden.c network.c weights.c $(HEADERS)
	@set -e; if ! echo '#include <stdio.h>' | $(BOARD_CC) -E - > /dev/null 2>&1 \
	|| ! $(firstword $(PLAY_$*)) --version > /dev/null 2>&1; then \
	echo "$*: not run, since tools are missing. On Debian: apt install $(or $(TOOLS_$*),$(TOOLS_arm))" >&2; exit 1; fi; \
	for part in network weights check; do $(BOARD_CC) -c $$part.c -o $*_$$part.o; done; \
	if ! $(BOARD_CC) --oslib=semihost --crt0=semihost $(PLACES) -o $*.elf $*_network.o $*_weights.o $*_check.o -lm 2> $*.log; then \
	if grep -q 'overflowed by' $*.log; then echo "$*: untried, too large for this board: $$(sed -n 's/.*: region/region/p' $*.log)"; \
	exit 0; else cat $*.log >&2; exit 1; fi; fi; \
	$(PREFIX)size $*_network.o $*_weights.o | awk 'NR > 1 { sum += $$1 + $$2 } END { printf "$*: flash: %d bytes; ", sum }'; \
	$(PLAY_$*) -kernel $*.elf -semihosting-config enable=on,target=native -display none -monitor none -serial none \
	-icount shift=0 2>&1

.PHONY: qemu
