/* The control of microcontroller.py: one pass of a convolutional ANN in int8, as CMSIS-NN computes it: columns of inputs widened to
   16 bits, two places by two channels at a time, two products an instruction (SMLAD) where the processor has them. How many
   instructions it takes does not depend on weights or images, so these are numbers drawn at random. */
#include "board.h"

#include <stdlib.h>
#include <string.h>

typedef struct { int side, from, to, kernel, stride; } Layer; /* to side x side places; 1 x 1: linear */
static const Layer layers[] = { LAYERS };
enum { COUNT = sizeof layers / sizeof *layers };
static int8_t weights[WEIGHTS], maps[2][LARGEST];
static int16_t columns[2][LONGEST];

#ifdef __ARM_FEATURE_DSP
#include <arm_acle.h>
#define widened(w) __sxtb16(w)
#define products(a, b, sum) __smlad(a, b, sum)
#else
static int32_t widened(uint32_t w) { return (int32_t)((w & 0xFF) | (w & 0xFF0000)); } /* of values from 0 */
static int32_t products(int32_t a, int32_t b, int32_t sum)
{
    return sum + (int16_t)a * (int16_t)b + (a >> 16) * (b >> 16);
}
#endif

static uint32_t word(const void *from)
{
    uint32_t found;
    memcpy(&found, from, 4);
    return found;
}

static int8_t rectified(int32_t sum) { return (int8_t)(sum < 0 ? 0 : sum >> 9 > 127 ? 127 : sum >> 9); }

/* The inputs of a place's window, in groups of four in the order 0, 2, 1, 3, as SXTB16 gives them. */
static void gather(const Layer *layer, const int8_t *in, int y, int x, int16_t *column)
{
    const int k = layer->kernel, row = k * layer->from, side = layer->side * layer->stride;
    static int8_t window[LONGEST];
    int dy, dx, i;
    for (dy = 0; dy < k; dy++)
        for (dx = 0; dx < k; dx++) {
            const int at_y = y * layer->stride + dy - (k - 1) / 2, at_x = x * layer->stride + dx - (k - 1) / 2;
            int8_t *to = window + dy * row + dx * layer->from;
            if (at_y < 0 || at_x < 0 || at_y >= side || at_x >= side)
                memset(to, 0, (size_t)layer->from);
            else
                memcpy(to, in + (at_y * side + at_x) * layer->from, (size_t)layer->from);
        }
    for (i = 0; i < k * row; i += 4) {
        const uint32_t four = word(window + i);
        const int32_t even = widened(four), odd = widened(four >> 8 | four << 24);
        memcpy(column + i, &even, 4);
        memcpy(column + i + 2, &odd, 4);
    }
}

/* Sums of two channels, whose weights are `length` apart, at two places, or at one where q is 0. */
static void block(const int8_t *w, int length, const int16_t *p, const int16_t *q, int32_t *sums)
{
    const int8_t *v = w + length, *const end = v;
    int32_t wp = 0, wq = 0, vp = 0, vq = 0;
    for (; w < end; w += 4, v += 4, p += 4) {
        const uint32_t a = word(w), b = word(v);
        const int32_t a0 = widened(a), a1 = widened(a >> 8 | a << 24), b0 = widened(b), b1 = widened(b >> 8 | b << 24);
        const int32_t p0 = (int32_t)word(p), p1 = (int32_t)word(p + 2);
        wp = products(a1, p1, products(a0, p0, wp));
        vp = products(b1, p1, products(b0, p0, vp));
        if (q) {
            const int32_t q0 = (int32_t)word(q), q1 = (int32_t)word(q + 2);
            wq = products(a1, q1, products(a0, q0, wq));
            vq = products(b1, q1, products(b0, q0, vq));
            q += 4;
        }
    }
    sums[0] = wp, sums[1] = vp, sums[2] = wq, sums[3] = vq;
}

static void run_layer(const Layer *layer, const int8_t *w, const int8_t *in, int8_t *out)
{
    const int places = layer->side * layer->side, length = (layer->kernel * layer->kernel * layer->from + 3) / 4 * 4;
    int place, c, i;
    for (place = 0; place < places; place += 2) {
        const int pair = place + 1 < places;
        int32_t sums[4];
        gather(layer, in, place / layer->side, place % layer->side, columns[0]);
        if (pair)
            gather(layer, in, (place + 1) / layer->side, (place + 1) % layer->side, columns[1]);
        for (c = 0; c < layer->to; c += 2) {
            block(w + c * length, length, columns[0], pair ? columns[1] : 0, sums);
            for (i = 0; i < (pair ? 4 : 2); i++)
                out[(place + i / 2) * layer->to + c + i % 2] = rectified(sums[i]);
        }
    }
}

static void pass(void)
{
    const int8_t *w = weights;
    int i;
    for (i = 0; i < COUNT; i++) {
        const Layer *layer = &layers[i];
        run_layer(layer, w, maps[i % 2], maps[(i + 1) % 2]);
        w += layer->to * ((layer->kernel * layer->kernel * layer->from + 3) / 4 * 4);
    }
}

int main(void)
{
    int i;
    board_paint();
    for (i = 0; i < WEIGHTS; i++)
        weights[i] = (int8_t)(rand() % 128);
    for (i = 0; i < LARGEST; i++)
        maps[0][i] = (int8_t)(rand() % 128);
    COUNTED(pass());
    board_next();
    board_print(sizeof maps + sizeof columns, "pass");
    return 0;
}
