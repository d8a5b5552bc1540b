/* What Python asks of the kernel: many timesteps, of many images, in one call. */
#include "network.c"

/* A run of one image, or recording, or of some steps of a stream: what it is given, and what it fills in: logits, counts, which are 0
   before, and the others where their pointers are not 0. first, events, values: of a recording of events, those of step t, first[t]
   to first[t + 1] - 1; values 0: each is 1; first 0: frames. state: which goes on; 0: one that is reset, for this image. frames:
   `count` of them, numbers, the last of which stays; uniforms: random numbers, given, `stride` from step to step, or 0: drawn. stops:
   end where the rule holds. ahead: predictions are compared with the frame so many steps later. Steps that can change nothing are not run.
   logits (T, classes), counts (T, nodes), error, open_share (T); prediction, predicted, is_open (pixels), `stride` from step to step.
   taken: steps that it took; comparisons: of a pixel with its prediction. */
typedef struct {
    NetworkState *state;
    const float *frames, *uniforms, *values;
    const int32_t *first, *events;
    float *logits, *error, *open_share, *prediction;
    int32_t *counts;
    uint8_t *predicted, *is_open;
    size_t stride;
    uint32_t key0, key1, number, epoch;
    int32_t count, steps, stops, ahead, taken;
    int64_t comparisons;
} NetworkRun;

/* Uniform numbers in [0, 1) of these images and steps, (steps, images, 4 blocks). */
void network_draws(float *out, int32_t blocks, int32_t first, int32_t steps, const int64_t *index, int32_t images, uint32_t epoch,
                   uint32_t key0, uint32_t key1)
{
    uint32_t block[DRAWN], words[4][DRAWN];
    for (int32_t t = 0; t < steps; t++)
        for (int32_t b = 0; b < images; b++, out += 4 * (size_t)blocks)
            for (int32_t i = 0; i < blocks; i += DRAWN) {
                for (int32_t j = 0; j < DRAWN; j++)
                    block[j] = (uint32_t)(i + j);
                philox(block, (uint32_t)(first + t), (uint32_t)index[b], epoch, key0, key1, words);
                for (int32_t j = 0; j < least_of(4 * DRAWN, 4 * (blocks - i)); j++)
                    out[4 * i + j] = uniform(words[j % 4][j / 4]);
            }
}

/* Whether nothing can change any more: no input neuron can send, no neuron is left above its threshold, none has a bias, and neither
   the pixels that the gate has yet to look at nor a read-out that leaks change what is seen. */
static int is_over(const State *run)
{
    const NetworkTables *network = run->network;
    int32_t changes = run->blocks;
    if (run->settings.feedback && (run->look_again || run->settings.readout_leak != 1))
        return 0;
    for (int32_t n = 1; n < network->nodes && !changes; n++)
        changes |= network->node[n].first_bias != 0 || (n != network->output && run->part[n].has_candidates);
    return !changes;
}

/* The prediction as the loss has it: what is returned times *factor, plus 1 - *factor. The gate has 2 sigma(R) - 1 of a spike count in
   grey, the loss sigma(R), which is half of that plus 1/2, exactly, since it is at least 1/2. */
static const float *shown_prediction(const State *run, float *factor)
{
    *factor = run->settings.readout == NETWORK_SPIKE_COUNT && !run->network->colour ? 0.5f : 1;
    return run->settings.readout == NETWORK_MEMBRANE_LINEAR ? run->readout_sum : run->prediction;
}

/* What a step shows before it is taken: what is open in it. Changes: open_share and is_open of timestep t. */
static void fill_before(const State *run, const NetworkRun *asked, int32_t t)
{
    if (asked->open_share)
        asked->open_share[t] = share(run->open_active, run->active);
    for (int32_t i = 0; asked->is_open && i < run->pixels; i++)
        asked->is_open[(size_t)t * asked->stride + (size_t)i] = run->is_open[i];
}

/* Squared error of the prediction of an image, summed over its pixels. */
static float error_of(const State *run, const float *image)
{
    float factor;
    const float *const p = shown_prediction(run, &factor);
    double error[8] = {0}, total = 0;
    int32_t i = 0;
    for (; i + 8 <= run->pixels; i += 8)
        for (int32_t j = 0; j < 8; j++) {
            const float apart = image[i + j] - (factor * p[i + j] + (1 - factor));
            error[j] += (double)(apart * apart);
        }
    for (; i < run->pixels; i++) {
        const float apart = image[i] - (factor * p[i] + (1 - factor));
        total += (double)(apart * apart);
    }
    for (int32_t j = 0; j < 8; j++)
        total += error[j];
    return (float)total;
}

/* What a step has come to. Changes: logits, error, prediction and predicted of timestep t. */
static void fill_after(const State *run, const NetworkRun *asked, int32_t t, float error)
{
    float factor;
    const float *const p = shown_prediction(run, &factor);
    const size_t at = (size_t)t * asked->stride;
    for (int32_t i = 0; i < run->classes; i++)
        asked->logits[(size_t)t * (size_t)run->classes + (size_t)i] = run->logits[i];
    if (asked->error)
        asked->error[t] = error;
    for (int32_t i = 0; asked->prediction && i < run->pixels; i++)
        asked->prediction[at + (size_t)i] = factor * p[i] + (1 - factor);
    for (int32_t i = 0; asked->predicted && i < run->pixels; i++)
        asked->predicted[at + (size_t)i] = run->predicted[i];
}

/* Pixels that are compared with their prediction in a step. */
static int32_t compared(const State *run)
{
    if (!run->settings.feedback || run->settings.epsilon <= 0)
        return 0;
    return run->settings.dynamic ? run->pixels : run->open;
}

/* A step in which nothing changes but outputs that leak. Changes: run->steps, logits, events of all parts, v of the output. */
static void idle(State *run)
{
    const NetworkTables *network = run->network;
    for (int32_t i = 0; i < network->nodes; i++)
        silence(&run->part[i]);
    propagate(run, &run->part[network->output]);
    run->steps++;
}

/* One run, from its first timestep to its last, or to that after which the stopping rule holds; what is left of the arrays then
   repeats it. Changes: run; asked->taken, comparisons, and the arrays that it points to. */
static void run_one(State *run, NetworkRun *asked)
{
    const NetworkTables *network = run->network;
    const size_t pixels = (size_t)run->pixels, nodes = (size_t)network->nodes;
    int32_t t, stopped = 0, over = 0;
    float error = 0;
    asked->comparisons = 0;
    for (t = 0; t < asked->steps && !stopped; t++) {
        const int shows = t < asked->count;
        if (shows)
            show(run, 0, asked->frames + (size_t)t * pixels);
        over = !shows && !asked->first && (over || is_over(run));
        fill_before(run, asked, t);
        asked->comparisons += compared(run);
        if (over)
            idle(run);
        else {
            run->uniforms = asked->uniforms ? asked->uniforms + (size_t)t * asked->stride : 0;
            if (asked->first) {
                network_arrive(run, asked->events + asked->first[t], asked->first[t + 1] - asked->first[t]);
                run->input_values = asked->values ? asked->values + asked->first[t] : 0;
            }
            stopped = network_step(run) && asked->stops;
            for (int32_t n = 0; n < network->nodes; n++)
                asked->counts[(size_t)t * nodes + (size_t)n] = (int32_t)run->part[n].count;
        }
        if (asked->error && (shows || (run->settings.feedback && !over)))
            error = error_of(run, asked->frames + (size_t)least_of(t + asked->ahead, asked->count - 1) * pixels);
        fill_after(run, asked, t, error);
    }
    asked->taken = t;
    for (; t < asked->steps; t++) { /* it has stopped: all stays as it is */
        if (asked->open_share)
            asked->open_share[t] = asked->open_share[t - 1];
        for (int32_t n = 0; asked->is_open && n < run->pixels; n++)
            asked->is_open[(size_t)t * asked->stride + (size_t)n] = asked->is_open[(size_t)(t - 1) * asked->stride + (size_t)n];
        fill_after(run, asked, t, error);
    }
    run->uniforms = 0;
}

/* These runs, one after the other; of those without a state in this one. */
void network_runs(State *run, NetworkRun *runs, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        State *const its = runs[i].state ? runs[i].state : run;
        if (!runs[i].state) {
            network_reset(its, runs[i].key0, runs[i].key1, runs[i].number);
            its->epoch = runs[i].epoch;
        }
        run_one(its, &runs[i]);
    }
}
