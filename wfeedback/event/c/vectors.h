/* Numbers, and what a compiler does not find by itself: sums of weights, masks of comparisons, random numbers many at once. With
   -DPLAIN, or a compiler that does not know vectors, plain loops instead, which give the same bits: every sum is taken in the same order. */
#ifndef VECTORS_H
#define VECTORS_H

#include "network.h"

typedef network_weight_t weight_t; typedef network_potential_t potential_t; typedef network_pixel_t pixel_t;
typedef NetworkPart Part;
#ifdef NETWORK_INT8
typedef uint32_t sum_t; /* sums of whole numbers wrap around, whatever a block's weights are: signed ones may not */
#else
typedef float sum_t;
#endif

/* gcc 12 makes vectors of 8 bits one by one, but by AVX's own instructions */
#if !defined(PLAIN) && !defined(NETWORK_SMALL) && (defined(__clang__) || (defined(__GNUC__) && (!defined(NETWORK_INT8) || defined(__AVX2__))))
#define FAST
#define ALWAYS static inline __attribute__((always_inline))
#else
#define ALWAYS static
#endif

#if defined(FAST) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define AVX512
enum { LANES = 16, MOST = 8, THREE = 6 };
#elif defined(FAST) && defined(__AVX2__)
#include <immintrin.h>
#define AVX2
enum { LANES = 8, MOST = 4, THREE = 4 };
#else
enum { LANES = 4, MOST = 4 };
#endif
/* LANES: numbers that are added at once; MOST: vectors whose sums stay in registers; THREE: of each of three rows; SPARE: potentials
   behind the last one that may be read and written back, and to which zeros may be added */
enum { SPARE = 16 };

#if defined(__GNUC__) || defined(__clang__)
#define lowest(bits) ((int32_t)__builtin_ctz(bits)) /* number of the lowest bit that is set, of a word that is not 0 */
#define how_many(bits) ((int32_t)__builtin_popcount(bits))
#else
static int32_t how_many(uint32_t bits)
{
    int32_t count = 0;
    for (; bits; bits &= bits - 1)
        count++;
    return count;
}
#define lowest(bits) how_many(((bits) & (~(bits) + 1)) - 1)
#endif

/* --- numbers, rounded alike on all machines */

ALWAYS potential_t plus(potential_t a, potential_t b) { return (potential_t)((sum_t)a + (sum_t)b); }
ALWAYS potential_t minus(potential_t a, potential_t b) { return (potential_t)((sum_t)a - (sum_t)b); }
ALWAYS potential_t times(potential_t a, potential_t b) { return (potential_t)((sum_t)a * (sum_t)b); }

#ifdef NETWORK_INT8
enum { LEAK_ONE = 32768 }; /* a leak in 2^15ths */

/* floor(share x), share in 2^15ths */
static potential_t leaked(potential_t x, potential_t share)
{
    const int64_t product = (int64_t)x * share;
    return (potential_t)(product >= 0 ? product / LEAK_ONE : -((LEAK_ONE - 1 - product) / LEAK_ONE));
}

static potential_t kept(potential_t x, float keep) { return leaked(x, (potential_t)(keep * (float)LEAK_ONE)); }

/* in 255ths; of two as near the even one, as 2^23 + 2^22 leaves no room for a fraction; 0 of what is no number, as a prediction
   may be of a read-out that has overflowed */
static potential_t current_of(float x) { return x == x ? (potential_t)(x * 255 + 12582912.0f - 12582912.0f) : 0; }
#else
enum { LEAK_ONE = 1 };

ALWAYS potential_t leaked(potential_t x, potential_t leak) { return leak * x; }
static potential_t kept(potential_t x, float keep) { return keep * x; }
static potential_t current_of(float x) { return x; }
#endif

ALWAYS float absolute(float x) { return x < 0 ? -x : x; }

/* tanh by float32 operations alone, so that all machines agree: a polynomial near 0, else 1 - 2 / (exp(2 |x|) + 1), with
   exp(r + n ln 2) = 2^n exp(r) (polynomials of Cephes, S. Moshier). Both are computed, so that compilers make vectors of it. */
ALWAYS float portable_tanh(float x)
{
    const float a = absolute(x), z = x * x;
    float r = 2 * (a < 9 ? a : 9), e, small;
    union { int32_t bits; float value; } power;
    const int32_t n = (int32_t)(r * 1.44269504f + 0.5f);
    small = -5.70498872745e-3f * z + 2.06390887954e-2f;
    small = small * z - 5.37397155531e-2f;
    small = small * z + 1.33314422036e-1f;
    small = small * z - 3.33332819422e-1f;
    small = small * z * x + x;
    r = r - (float)n * 0.693359375f;
    r = r - (float)n * -2.12194440e-4f;
    e = 1.9875691500e-4f * r + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    e = e * (r * r) + r + 1;
    power.bits = (n + 127) * 8388608; /* 2^n */
    e = 1 - 2 / (e * power.value + 1);
    e = a > 9 ? 1 : e;
    return a < 0.625f ? small : x < 0 ? -e : e;
}

ALWAYS float sigmoid(float x) { return (1 + portable_tanh(x / 2)) / 2; }

/* --- to[i] += the sum over r of values[r] weights[begins[r] + i], in the order of r, for i below size; without values each is 1 */

#ifndef NETWORK_SMALL
#ifdef FAST
typedef sum_t lanes_t __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef sum_t four_t __attribute__((vector_size(16), aligned(4), may_alias));
#ifdef NETWORK_INT8
typedef int8_t few_t __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef int8_t few4_t __attribute__((vector_size(4), aligned(1), may_alias));
typedef int16_t short_t __attribute__((vector_size(4 * LANES)));
#if defined(AVX512) /* of this gcc 12 makes no vectors by itself */
#define WIDE(at) ((lanes_t)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(at))))
#define SHORT(at) ((short_t)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(at))))
#define HALF(sum, k) ((lanes_t)_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64((__m512i)(sum), k)))
#elif defined(AVX2)
#define WIDE(at) ((lanes_t)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(at))))
#define SHORT(at) ((short_t)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(at))))
#define HALF(sum, k) ((lanes_t)_mm256_cvtepi16_epi32(_mm256_extracti128_si256((__m256i)(sum), k)))
#else
#define WIDE(at) __builtin_convertvector(*(const few_t *)(at), lanes_t)
#endif
#define WIDE4(at) __builtin_convertvector(*(const few4_t *)(at), four_t)
#else
#define WIDE(at) (*(const lanes_t *)(at))
#define WIDE4(at) (*(const four_t *)(at))
#endif

/* `count` times weights to `parts` vectors of one row, or of each of three that lie `stride` potentials and `row_size` weights apart;
   rows, parts and valued are constants where this is called */
ALWAYS void add_vectors(potential_t *to, size_t stride, const weight_t *weights, int32_t row_size, const size_t *begins,
                        const potential_t *values, int32_t count, const int rows, const int parts, const int valued)
{
    lanes_t sum[3][8];
    for (int y = 0; y < rows; y++)
        for (int k = 0; k < parts; k++)
            sum[y][k] = *(lanes_t *)(to + (size_t)y * stride + k * LANES);
    for (int32_t r = 0; r < count; r++)
        for (int y = 0; y < rows; y++)
            for (int k = 0; k < parts; k++)
                sum[y][k] += (valued ? (sum_t)values[r] : 1) * WIDE(weights + begins[r] + y * row_size + k * LANES);
    for (int y = 0; y < rows; y++)
        for (int k = 0; k < parts; k++)
            *(lanes_t *)(to + (size_t)y * stride + k * LANES) = sum[y][k];
}

ALWAYS void add_weights_of(potential_t *to, const weight_t *weights, const size_t *begins, const potential_t *values, int32_t count,
                        int32_t size, const int valued)
{
    int32_t i = 0;
    while (size - i >= LANES) {
        const int left = (size - i) / LANES, parts = left < MOST ? left : MOST;
#define OF(k) case k: add_vectors(to + i, 0, weights + i, 0, begins, values, count, 1, k, valued); break;
        switch (parts) { OF(1) OF(2) OF(3) OF(4) OF(5) OF(6) OF(7) OF(8) }
#undef OF
        i += parts * LANES;
    }
    for (; size - i >= 4; i += 4) {
        four_t sum = *(four_t *)(to + i);
        for (int32_t r = 0; r < count; r++)
            sum += (valued ? (sum_t)values[r] : 1) * WIDE4(weights + begins[r] + i);
        *(four_t *)(to + i) = sum;
    }
    for (; i < size; i++)
        for (int32_t r = 0; r < count; r++) {
            const weight_t weight = weights[begins[r] + (size_t)i];
            to[i] = plus(to[i], valued ? times(values[r], weight) : weight);
        }
}

#if defined(AVX512) || defined(AVX2)
#ifdef NETWORK_INT8
/* Three rows, as add_vectors, but weights of 8 bits are added up in 16, which hold SHORTS of them; a vector has twice as many. */
enum { SHORTS = 256, WIDTH = 2 * LANES };
ALWAYS void add_three(potential_t *to, size_t stride, const weight_t *weights, int32_t row_size, const size_t *begins, int32_t count,
                      const int parts)
{
    short_t sum[3][6];
    for (int32_t first = 0; first < count; first += SHORTS) {
        const int32_t last = count - first < SHORTS ? count : first + SHORTS;
        for (int y = 0; y < 3; y++)
            for (int k = 0; k < parts; k++)
                sum[y][k] = (short_t){0};
        for (int32_t r = first; r < last; r++)
            for (int y = 0; y < 3; y++)
                for (int k = 0; k < parts; k++)
                    sum[y][k] += SHORT(weights + begins[r] + y * row_size + k * WIDTH);
        for (int y = 0; y < 3; y++)
            for (int k = 0; k < parts; k++) {
                lanes_t *const at = (lanes_t *)(to + (size_t)y * stride + k * WIDTH);
                at[0] += HALF(sum[y][k], 0);
                at[1] += HALF(sum[y][k], 1);
            }
    }
}
#else
enum { WIDTH = LANES };
#define add_three(to, stride, weights, row_size, begins, count, k) add_vectors(to, stride, weights, row_size, begins, 0, count, 3, k, 0)
#endif

/* Windows of three rows of `size` weights, all within the target. Returns 0, and does nothing, where that is not faster. */
static int add_whole(potential_t *to, size_t stride, const weight_t *weights, int32_t row_size, const size_t *begins, int32_t count,
                     int32_t size)
{
    int32_t i = 0;
    if (size % WIDTH)
        return 0;
    while (i < size) {
        const int left = (size - i) / WIDTH, parts = left < THREE ? left : THREE;
#define OF(k) case k: add_three(to + i, stride, weights + i, row_size, begins, count, k); break;
        switch (parts) { OF(1) OF(2) OF(3) OF(4) OF(5) OF(6) }
#undef OF
        i += parts * WIDTH;
    }
    return 1;
}
#else
#define add_whole(to, stride, weights, row_size, begins, count, size) 0
#endif
#else
#define add_whole(to, stride, weights, row_size, begins, count, size) 0
ALWAYS void add_weights_of(potential_t *to, const weight_t *weights, const size_t *begins, const potential_t *values, int32_t count,
                        int32_t size, const int valued)
{
    for (int32_t r = 0; r < count; r++) {
        const weight_t *const from = weights + begins[r];
        for (int32_t i = 0; i < size; i++)
            to[i] = plus(to[i], valued ? times(values[r], from[i]) : from[i]);
    }
}
#endif
/* to[i] += from[i] */
ALWAYS void add_all(potential_t *to, const potential_t *from, int32_t size)
{
    int32_t i = 0;
#ifdef FAST
    for (; size - i >= 4; i += 4)
        *(four_t *)(to + i) += *(const four_t *)(from + i);
#endif
    for (; i < size; i++)
        to[i] = plus(to[i], from[i]);
}

static void add_weights(potential_t *to, const weight_t *weights, const size_t *begins, const potential_t *values, int32_t count,
                     int32_t size, int valued)
{
    if (valued)
        add_weights_of(to, weights, begins, values, count, size, 1);
    else
        add_weights_of(to, weights, begins, values, count, size, 0);
}

/* --- bit i: whether v[i] > bound, for i below count, 1 to 32; v may be read up to SPARE further */

#if defined(AVX512) && defined(NETWORK_INT8)
#define MASK(v, bound) _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(v), _mm512_set1_epi32(bound))
#elif defined(AVX512)
#define MASK(v, bound) _mm512_cmp_ps_mask(_mm512_loadu_ps(v), _mm512_set1_ps(bound), _CMP_GT_OQ)
#elif defined(AVX2) && defined(NETWORK_INT8)
#define MORE(v, bound) _mm256_cmpgt_epi32(_mm256_loadu_si256((const __m256i *)(v)), _mm256_set1_epi32(bound))
#define MASK(v, bound) _mm256_movemask_ps(_mm256_castsi256_ps(MORE(v, bound)))
#elif defined(AVX2)
#define MASK(v, bound) _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(v), _mm256_set1_ps(bound), _CMP_GT_OQ))
#endif

ALWAYS uint32_t above(const potential_t *v, int32_t count, potential_t bound)
{
    uint32_t bits = 0;
#ifdef MASK
    for (int32_t i = 0; i < count; i += LANES)
        bits |= (uint32_t)MASK(v + i, bound) << i;
#else
    for (int32_t i = 0; i < count; i++)
        bits |= (uint32_t)(v[i] > bound) << i;
#endif
    return count < 32 ? bits & (((uint32_t)1 << count) - 1) : bits;
}

/* v[i] -= theta for the bits i of fired; returns those that are above theta still. */
ALWAYS uint32_t lower(potential_t *v, uint32_t fired, int32_t count, potential_t theta)
{
    uint32_t still = 0;
#if defined(AVX512) && !defined(NETWORK_INT8)
    const __m512 thetas = _mm512_set1_ps(theta);
    for (int32_t i = 0; i < count; i += LANES) {
        const __m512 before = _mm512_loadu_ps(v + i), after = _mm512_mask_sub_ps(before, (__mmask16)(fired >> i), before, thetas);
        _mm512_storeu_ps(v + i, after);
        still |= (uint32_t)_mm512_cmp_ps_mask(after, thetas, _CMP_GT_OQ) << i;
    }
    return still & fired;
#else
    (void)count;
    for (uint32_t bits = fired; bits; bits &= bits - 1) {
        v[lowest(bits)] = minus(v[lowest(bits)], theta);
        still |= (uint32_t)(v[lowest(bits)] > theta) << lowest(bits);
    }
    return still;
#endif
}
#endif

/* --- random numbers: Philox 4x32-10 (Salmon et al., SC 2011), of DRAWN counters (block of 4 numbers, step, image, epoch) at once */

enum { DRAWN = 16 };

static void philox(const uint32_t *blocks, uint32_t step, uint32_t image, uint32_t epoch, uint32_t k0, uint32_t k1,
                   uint32_t words[4][DRAWN])
{
    uint32_t *const a = words[0], *const b = words[1], *const c = words[2], *const d = words[3];
    for (int i = 0; i < DRAWN; i++)
        a[i] = blocks[i], b[i] = step, c[i] = image, d[i] = epoch;
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < DRAWN; i++) {
            const uint64_t p = (uint64_t)0xD2511F53u * a[i], q = (uint64_t)0xCD9E8D57u * c[i];
            const uint32_t next = (uint32_t)(q >> 32) ^ b[i] ^ k0;
            c[i] = (uint32_t)(p >> 32) ^ d[i] ^ k1;
            a[i] = next, b[i] = (uint32_t)q, d[i] = (uint32_t)p;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* 24 high bits of a word as a number in [0, 1) */
ALWAYS float uniform(uint32_t word) { return (float)(int32_t)(word >> 8) * 5.9604644775390625e-8f; }

#endif
