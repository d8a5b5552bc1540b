/* What an image, or a recording, takes on a microcontroller, for check.c: instructions, and the deepest place of the stack.

   Under `qemu -icount shift=0` the board's clock moves on by one nanosecond an instruction. RISC-V reads its counter of instructions;
   a Cortex-M reads SysTick, whose ticks are turned into instructions by a loop of a known number of them. A call takes 600 million
   at most. Without ON_BOARD nothing is measured. */
#ifdef ON_BOARD
#include <stdint.h>
#include <stdio.h>

extern uint8_t __stack[], __stack_size[]; /* of the linker script: where the stack begins, downwards, and how far it may go */

enum { LOOPED = 2000000, PAINT = 0xA5 };
static uint32_t board_began, board_image, board_images, board_least = UINT32_MAX, board_most;
static uint64_t board_sum;
#ifndef __riscv
static uint32_t board_loop = 1; /* ticks of LOOPED instructions */
#endif

static uint32_t board_ticks(void)
{
#ifdef __riscv
    uint32_t now;
    __asm__ volatile("rdinstret %0" : "=r"(now));
    return now;
#else
    return 0xFFFFFF - *(volatile uint32_t *)0xE000E018; /* counts down from 2^24 - 1 */
#endif
}

static uint32_t board_since(void)
{
#ifdef __riscv
    return board_ticks() - board_began;
#else
    return (uint32_t)((uint64_t)((board_ticks() - board_began) & 0xFFFFFF) * LOOPED / board_loop);
#endif
}

#define COUNTED(call) (board_began = board_ticks(), (call), board_image += board_since())

__attribute__((noinline)) static void board_paint(void)
{
    volatile uint8_t *at = (uint8_t *)((uintptr_t)__stack - (uintptr_t)__stack_size);
#ifndef __riscv
    uint32_t left = LOOPED / 2;
    volatile uint32_t *const systick = (volatile uint32_t *)0xE000E010;
    systick[1] = 0xFFFFFF; /* reload */
    systick[2] = 0;
    systick[0] = 5; /* on, by the processor's clock */
    board_began = board_ticks();
    __asm__ volatile("1: subs %0, #1\n bne 1b" : "+r"(left) : : "cc");
    board_loop = (board_ticks() - board_began) & 0xFFFFFF;
#endif
    while ((uintptr_t)at < (uintptr_t)__builtin_frame_address(0) - 128)
        *at++ = PAINT;
}

/* An image, or a recording, is done. */
static void board_next(void)
{
    board_images++;
    board_sum += board_image;
    board_least = board_image < board_least ? board_image : board_least;
    board_most = board_image > board_most ? board_image : board_most;
    board_image = 0;
}

/* stack: bytes of it in use at once since board_paint(), the check's own included. what: image or recording. */
static void board_print(uint32_t memory, const char *what)
{
    const volatile uint8_t *at = (uint8_t *)((uintptr_t)__stack - (uintptr_t)__stack_size);
    while (*at == PAINT)
        at++;
    printf("instructions per %s: %lu (%lu to %lu); RAM: %lu bytes, and %lu of stack\n", what,
           (unsigned long)(board_sum / board_images), (unsigned long)board_least, (unsigned long)board_most,
           (unsigned long)memory, (unsigned long)((uintptr_t)__stack - (uintptr_t)at));
}
#else
#define COUNTED(call) (call)
#define board_paint() ((void)0)
#define board_next() ((void)0)
#define board_print(memory, what) ((void)0)
#endif
