/* NETWORK_SMALL: whole numbers for a microcontroller. Sums are taken four or eight at a time; potentials have 16 bits where Node.narrow
   says so; words of spikes have as many bytes as their channels need. */
#ifndef SMALL_H
#define SMALL_H

#include "vectors.h"

#include <string.h>

static int16_t saturated(potential_t v) { return (int16_t)(v < INT16_MIN ? INT16_MIN : v > INT16_MAX ? INT16_MAX : v); }

enum { SPIKES, VALUES, PAIRS }; /* kinds of events: worth 1; any number; 16 bits, see in_pairs() */

/* sum[k] of the weights k that begin there */
ALWAYS void sum_four(const weight_t *weights, const size_t *begins, const potential_t *values, int32_t count, const int kind,
                     potential_t *sum)
{
    sum_t a = 0, b = 0, c = 0, d = 0;
    for (int32_t r = 0; r < count; r++) {
        const weight_t *const from = weights + begins[r];
        const potential_t value = kind == SPIKES ? 1 : values[r];
        a += (sum_t)times(value, from[0]);
        b += (sum_t)times(value, from[1]);
        c += (sum_t)times(value, from[2]);
        d += (sum_t)times(value, from[3]);
    }
    sum[0] = (potential_t)a, sum[1] = (potential_t)b, sum[2] = (potential_t)c, sum[3] = (potential_t)d;
}

#if defined(__ARM_FEATURE_SIMD32) && !defined(PLAIN)
#include <arm_acle.h>
#define DSP
/* the bytes 0 and 2, or 1 and 3, of a word as numbers in the halves of a word; added to those of another */
#define EVEN(word) ((uint32_t)__sxtb16((int8x4_t)(word)))
#define ODD(result, word) __asm__("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(word))
#define ADD_EVEN(sum, word) ((sum) = (uint32_t)__sxtab16((int16x2_t)(sum), (int8x4_t)(word)))
#define ADD_ODD(sum, word) __asm__("sxtab16 %0, %0, %1, ror #8" : "+r"(sum) : "r"(word))
#define LOWS(one, other) (((one) & 0xFFFF) | (other) << 16)
#define HIGHS(one, other) ((one) >> 16 | ((other) & 0xFFFF0000))
#define TIMES(pair, values, sum) ((sum) = __smlad((int16x2_t)(pair), (int16x2_t)(values), (sum)))

/* sum[k] of the weights k of these begins, of spikes, as many as 16 bits hold: 256 */
ALWAYS void sum_eight(const weight_t *weights, const size_t *begins, int32_t count, potential_t *sum)
{
    uint32_t even = 0, odd = 0, even4 = 0, odd4 = 0, word, word4;
    for (int32_t r = 0; r < count; r++) {
        const weight_t *const from = weights + begins[r];
        memcpy(&word, from, 4);
        memcpy(&word4, from + 4, 4);
        ADD_EVEN(even, word), ADD_EVEN(even4, word4);
        ADD_ODD(odd, word);
        ADD_ODD(odd4, word4);
    }
    sum[0] = (int16_t)even, sum[1] = (int16_t)odd, sum[2] = (int32_t)even >> 16, sum[3] = (int32_t)odd >> 16;
    sum[4] = (int16_t)even4, sum[5] = (int16_t)odd4, sum[6] = (int32_t)even4 >> 16, sum[7] = (int32_t)odd4 >> 16;
}

/* Values of 16 bits, two to a word, for sum_pairs; an odd one gets a 0 beside it (there is room). Returns how many there are. */
static int32_t in_pairs(potential_t *values, size_t *begins, int32_t count)
{
    if (count % 2)
        values[count] = 0, begins[count] = begins[count - 1], count++;
    for (int32_t i = 0; i < count; i += 2)
        values[i / 2] = (potential_t)LOWS((uint32_t)values[i], (uint32_t)values[i + 1]);
    return count;
}

/* sum[k] of the weights k that begin there, times their values: two at once */
ALWAYS void sum_pairs(const weight_t *weights, const size_t *begins, const potential_t *values, int32_t count, potential_t *sum)
{
    potential_t a = 0, b = 0, c = 0, d = 0;
    uint32_t one, other, odd, odd_other;
    for (int32_t r = 0; r < count; r += 2) {
        const uint32_t two = (uint32_t)values[r / 2];
        memcpy(&one, weights + begins[r], 4);
        memcpy(&other, weights + begins[r + 1], 4);
        ODD(odd, one);
        ODD(odd_other, other);
        one = EVEN(one), other = EVEN(other);
        TIMES(LOWS(one, other), two, a), TIMES(HIGHS(one, other), two, c);
        TIMES(LOWS(odd, odd_other), two, b), TIMES(HIGHS(odd, odd_other), two, d);
    }
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}
#else
#define in_pairs(values, begins, count) (count)
#define sum_pairs(weights, begins, values, count, sum) sum_four(weights, begins, values, count, VALUES, sum)
#endif

/* v[first + i], of 16 bits where it is narrow */
#define ADD(k) if (narrow) shorts[i + (k)] = saturated(plus(shorts[i + (k)], sum[k])); else wide[i + (k)] = plus(wide[i + (k)], sum[k])
ALWAYS void add_sums_of(potential_t *v, size_t first, const weight_t *weights, const size_t *begins, const potential_t *values,
                        int32_t count, int32_t size, const int narrow, const int kind)
{
    int16_t *const shorts = (int16_t *)v + first;
    potential_t *const wide = v + first, sum[8];
    int32_t i = 0;
#ifdef DSP
    for (; kind == SPIKES && size - i >= 8; i += 8) {
        sum_eight(weights + i, begins, count, sum);
        ADD(0); ADD(1); ADD(2); ADD(3); ADD(4); ADD(5); ADD(6); ADD(7);
    }
#endif
    for (; i < size; i += 4) {
        if (kind == PAIRS)
            sum_pairs(weights + i, begins, values, count, sum);
        else
            sum_four(weights + i, begins, values, count, kind, sum);
        if (size - i >= 4) {
            ADD(0); ADD(1); ADD(2); ADD(3);
        } else
            for (int32_t k = 0; k < size - i && k < 4; k++) {
                ADD(k);
            }
    }
}
#undef ADD

static void add_sums(potential_t *v, size_t first, const weight_t *weights, const size_t *begins, const potential_t *values,
                     int32_t count, int32_t size, int narrow, int kind)
{
#define OF(n, k) case 4 * n + k: add_sums_of(v, first, weights, begins, values, count, size, n, k); break;
    switch (4 * (narrow != 0) + kind) { OF(0, SPIKES) OF(0, VALUES) OF(0, PAIRS) OF(1, SPIKES) OF(1, VALUES) OF(1, PAIRS) }
#undef OF
}

static size_t v_bytes(const Part *part) { return part->narrow ? sizeof(int16_t) : sizeof *part->v; }
static potential_t v_at(const Part *part, size_t i) { return part->narrow ? ((const int16_t *)part->v)[i] : part->v[i]; }

static void set_v(const Part *part, size_t i, potential_t v)
{
    if (part->narrow)
        ((int16_t *)part->v)[i] = saturated(v);
    else
        part->v[i] = v;
}

static uint32_t word_at(const Part *part, size_t i)
{
    if (part->bytes == 1)
        return ((const uint8_t *)part->spikes)[i];
    return part->bytes == 2 ? ((const uint16_t *)part->spikes)[i] : part->spikes[i];
}

static void set_word(Part *part, size_t i, uint32_t word)
{
    if (part->bytes == 1)
        ((uint8_t *)part->spikes)[i] = (uint8_t)word;
    else if (part->bytes == 2)
        ((uint16_t *)part->spikes)[i] = (uint16_t)word;
    else
        part->spikes[i] = word;
}
#endif
