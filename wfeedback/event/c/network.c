/* The network's timestep, event by event, in the order of step() in self_models/vgg_wFeedback_spiking.py. network.h says how
   it is called, and what its structs hold; vectors.h has the types of numbers, the macros that walk over places (which expect
   loop variables of the names that they use) and what is fast, small.h what needs little memory.

   network_step() takes one timestep:

       encode             the image becomes spikes of node 0, where pixels are open: encode_image()
       propagate          for each node, in the order of the tables: charge() adds what its source has sent to its potentials,
                          window by window in add_windows(); fire() finds the neurons above their threshold, and resets them.
                          In this order with update immediate; with delayed, fire() comes first
       read_out_and_gate  read_out() moves the prediction, with leak and slew limit; gate() blocks the pixels that are predicted
       holds              whether the stopping rule ends the image: early exit

   What a neuron keeps between timesteps lies in NetworkPart. It gets its memory in lay(), is brought to rest in
   network_reset(), and is read and written in charge() and fire(). fire() looks at candidates alone, the places that something
   has reached; what goes on by itself, as a leak does, is made up for there, in decay(). A neuron with more of a state needs
   changes at these places. A refractory period, for example, needs its length, in NetworkNode (and where tables are written and
   checked: layout.py, block.c); an array of the first steps in which neurons may spike again, in NetworkPart, lay() and
   network_reset() (0: at once); and in fire() a mask of those that may not yet, whose place stays a candidate until they may.
   If V must not charge meanwhile, fire() has to undo what charge() has added. bound() in fire() counts on a spike to take theta
   from a V above its ceiling, and must bound V where none comes. A stream's state has potentials alone (event/state.py).

   The comment of a function says what it computes and, behind "Changes:", which fields it writes, itself or by what it calls.
   Units: potentials V, thresholds theta, weights W and biases b are in the unit of the thresholds, in float32, or in whole
   numbers in int8 networks; pixels x, predictions p and epsilon lie on the image's scale, 0 to 1, or -1 to 1 in colour; time is
   counted in timesteps. A clock is a number of timesteps since the reset.

   Words for what goes: wipe, memory; silence, a node's events; clear_sums, what reached a node for one step; reset_fired, what
   a spike takes from V; keep_share, part of V, for reset_on_change, as another image is shown; network_reset, all, as a run
   begins. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#else
#pragma STDC FP_CONTRACT OFF
#endif
#include "network.h"
#include "vectors.h"
#ifdef NETWORK_SMALL
#include "small.h"
#else
/* V of neuron i of a node; likewise set_v. Words of spikes: word_at, set_word. Of NETWORK_SMALL they are in small.h. */
ALWAYS potential_t v_at(const Part *part, size_t i) { return part->v[i]; }
ALWAYS void set_v(const Part *part, size_t i, potential_t v) { part->v[i] = v; }
static size_t v_bytes(const Part *part) { return sizeof *part->v; }
ALWAYS uint32_t word_at(const Part *part, size_t i) { return part->spikes[i]; }
ALWAYS void set_word(Part *part, size_t i, uint32_t word) { part->spikes[i] = word; }
#endif

#include <float.h>
#include <math.h>

typedef NetworkNode Node; typedef NetworkState State; typedef NetworkSettings Settings;

enum { ALIGNED = sizeof(void *) > 4 ? 16 : 8, CACHE_LINE = sizeof(void *) > 4 ? 64 : 8 }; /* bytes of which an array's place is a multiple,
                                                                                       and that of potentials: a line of the cache */
enum { SMALL = 64 };                          /* a window with so few weights is added up before it is added to V */
enum { AT_ONCE = 16 };                        /* windows read at once */
enum { FOR_A_GROUP = 4 };                     /* mean spikes of a place in a group of channels from which on groups pay */
enum { FEW_WORDS = 32 };                      /* words of spikes for each spike up to which all are cleared, not those of places that sent */
enum { CHUNK = 64 };                          /* pixels read out at once */
enum { ONES, SIGNS, NUMBERS };                /* Part.worth: what each event of a step is worth: 1; 1 or -1; any number */

/* --- how a state lies in memory */

enum { IS_SMALL = sizeof(pixel_t) == 1 };
/* The smaller of two numbers; places of a node: rows times columns; neurons of a node: places times channels. */
static int32_t least_of(int32_t a, int32_t b) { return a < b ? a : b; }
static size_t places_of(const Node *node) { return (size_t)node->height * (size_t)node->width; }
static size_t neurons_of(const Node *node) { return places_of(node) * (size_t)node->channels; }

/* Memory <- 0, so many bytes; nothing where it is 0. Changes: that memory. */
static void wipe(void *memory, size_t bytes)
{
    for (size_t i = 0; memory && i < bytes; i++)
        ((char *)memory)[i] = 0;
}

/* Take count * bytes bytes of memory from *end on. *end moves behind them, to a multiple of ALIGNED, or is 0 from
   then on: they are too many. Returns where they begin; 0 for none, or where there is no memory to lie in.
   Changes: *end. */
static void *take(char *memory, size_t *end, size_t count, size_t bytes)
{
    const size_t at = *end;
    if (!at || !count)
        return 0;
    if (count > (SIZE_MAX / 2 - at) / bytes)
        *end = 0;
    else
        *end = (at + count * bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    return memory && *end ? memory + at : 0;
}

/* Lay the arrays of a State in the memory behind it, each as long as its node needs it. Returns the end, in bytes; 0:
   too many. memory 0: the end alone.
   Changes: the pointers of run and of its parts, and all that they have of the tables. */
static size_t lay(const NetworkTables *network, State *run, char *memory)
{
    size_t end = (sizeof *run + ALIGNED - 1) / ALIGNED * ALIGNED;
    const size_t pixels = neurons_of(&network->node[0]), classes = neurons_of(&network->node[network->output]);
    const size_t windows = (size_t)network->windows + (size_t)network->windows % 2;
    run->part = take(memory, &end, (size_t)network->nodes, sizeof *run->part);
    for (int32_t n = 0; n < network->nodes; n++) {
        const Node *node = &network->node[n];
        const potential_t *const constants = network->constants + NETWORK_CONSTANTS * n;
        const int is_end = node->kind == NETWORK_OUTPUT || node->kind == NETWORK_DECODED;
        const int pools = node->kind == NETWORK_POOL || node->kind == NETWORK_COUNTING_POOL;
        const int is_charged = n > 0 && node->kind != NETWORK_ADDING && !pools, lists = is_charged && !is_end;
        const int sends = node->kind != NETWORK_ADDING && !is_end, leaks = lists && constants[NETWORK_LEAK] != (potential_t)LEAK_ONE;
        const size_t neurons = neurons_of(node);
        Part part = {.node = node, .constants = constants};
        const size_t bits_of_places = (size_t)node->height * (size_t)((node->width - 1) / 32 + 1);
        int counts = node->kind == NETWORK_COUNTING_POOL;
        part.words = (node->channels - 1) / 32 + 1;
        part.row_words = (node->width - 1) / 32 + 1;
        part.narrow = IS_SMALL && node->narrow;
        part.bytes = !IS_SMALL || node->channels > 16 ? 4 : node->channels > 8 ? 2 : 1;
        for (int32_t m = 0; m < network->nodes; m++)
            counts |= network->node[m].kind == NETWORK_COUNTING_POOL && network->node[m].source == n;
        end = (end + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
        part.v = take(memory, &end, is_charged || node->valued ? neurons + SPARE : 0, v_bytes(&part));
        part.spikes = take(memory, &end, sends ? places_of(node) * (size_t)part.words : 0, (size_t)part.bytes);
        part.sent = take(memory, &end, sends ? bits_of_places : 0, sizeof *part.sent);
        part.candidates = take(memory, &end, lists ? bits_of_places : 0, sizeof *part.candidates);
        part.decayed = take(memory, &end, leaks ? places_of(node) : 0, sizeof *part.decayed);
        part.passed = take(memory, &end, counts ? neurons : 0, sizeof *part.passed);
        part.counted = take(memory, &end, network->counting ? 2 * neurons : 0, sizeof *part.counted);
        if (run->part)
            run->part[n] = part;
    }
    run->begins = take(memory, &end, windows, sizeof *run->begins);
    run->values = take(memory, &end, windows, sizeof *run->values);
    run->image = take(memory, &end, pixels, sizeof *run->image);
    run->readout_sum = take(memory, &end, pixels, sizeof *run->readout_sum);
    run->prediction = take(memory, &end, IS_SMALL ? 0 : pixels, sizeof *run->prediction);
    run->logits = take(memory, &end, classes, sizeof *run->logits);
    run->is_open = take(memory, &end, pixels, 1);
    run->scratch = take(memory, &end, pixels + 4, 1);
    run->predicted = take(memory, &end, pixels, 1);
    run->sending = take(memory, &end, pixels / 4 + 1 + DRAWN, sizeof *run->sending);
    run->pixels = (int32_t)pixels, run->classes = (int32_t)classes;
    return end;
}

/* Bytes of a State with its arrays; 0 where no memory can be so large. */
size_t network_size(const NetworkTables *network)
{
    State none = {0};
    return lay(network, &none, 0);
}

/* --- which settings a network takes */

/* Whether a setting is in a range: least to most; 0 to most; above 0; any number. NaN is in none of them. */
static int is_within(int32_t value, int32_t least, int32_t most) { return value >= least && value <= most; }
static int is_from_0(float value, float most) { return value >= 0 && value <= most; } /* NaN is not */
static int is_above_0(float value) { return value > 0 && value <= FLT_MAX; }
static int is_number(float value) { return value == value; }

/* Whether each setting is in its range: see NetworkSettings. */
static int are_in_range(const Settings *set)
{
    const int32_t flags = set->dynamic | set->latch | set->feedback | set->immediate | set->residual | set->per_pixel;
    if (flags & ~1) /* one is neither 0 nor 1 */
        return 0;
    if (!is_within(set->rule, NETWORK_NEVER, NETWORK_BOTH) || !is_within(set->encoding, NETWORK_POISSON, NETWORK_DIRECT)
        || !is_within(set->readout, NETWORK_SPIKE_COUNT, NETWORK_MEMBRANE_RESCALED))
        return 0;
    if (set->timesteps < 1 || set->phase_steps < 0)
        return 0;
    if (!(set->epsilon >= 0) || !is_number(set->open_bound) || !is_number(set->gap_bound) || !is_number(set->entropy_bound))
        return 0;
    if (!is_from_0(set->readout_leak, 1) || !is_from_0(set->readout_slew, FLT_MAX) || !(set->surprise >= 0))
        return 0;
    return is_above_0(set->decoded_scale) && is_above_0(set->logits_scale);
}

/* Whether node a runs before node b in a timestep. */
static int runs_before(const NetworkTables *network, int32_t a, int32_t b)
{
    int32_t i = 0;
    while (i < network->nodes - 2 && network->order[i] != a && network->order[i] != b)
        i++;
    return network->order[i] == a;
}

/* Whether further links to neurons (ADDING) run when these want it: before them, if V is charged before they fire
   (immediate), else after them. A delayed neuron whose V had been charged, and had leaked, already would take the
   leaks of 2^32 - 1 steps. */
static int links_fit(const NetworkTables *network, int32_t immediate)
{
    for (int32_t n = 1; n < network->nodes; n++) {
        const int32_t into = network->node[n].into;
        if (network->node[n].kind == NETWORK_ADDING && network->node[into].kind == NETWORK_NEURONS
            && runs_before(network, n, into) != immediate)
            return 0;
    }
    return 1;
}

/* Whether a network takes these settings: in range, and it has what they ask for. See network.h. */
int network_accepts(const NetworkTables *network, const Settings *settings)
{
    const int sends_values = settings->encoding == NETWORK_DIRECT || settings->residual;
    if (!are_in_range(settings) || !links_fit(network, settings->immediate))
        return 0;
    if (settings->feedback && network->decoded < 0)
        return 0;
    return !sends_values || network->node[0].valued;
}

/* Make a State in this memory, with these settings, and not yet reset. Returns 0 where it is too small, the settings
   are not taken, or the compiler fuses products with sums.
   Changes: all of the memory. */
State *network_begin(const NetworkTables *network, const Settings *settings, void *memory, size_t bytes)
{
    const volatile float a = 1.000244140625f; /* 1 + 2^-12, whose square is rounded to 1 + 2^-11 */
    State *const run = memory;
    const size_t size = network_size(network);
    if (!memory || !size || bytes < size || !network_accepts(network, settings) || a * a - 1.00048828125f != 0)
        return 0;
    wipe(memory, size);
    lay(network, run, memory);
    run->network = network;
    run->settings = *settings;
    run->epoch = 0xFFFFFFFFu; /* of random numbers drawn in evaluation */
    return run;
}

/* --- a node: its potentials; for NETWORK_SMALL see small.h */

/* Bytes of a bitmap of a node's places: sent, or candidates. */
static size_t bitmap_bytes(const Part *part) { return sizeof(uint32_t) * (size_t)(part->node->height * part->row_words); }

enum { OWN_THRESHOLD, OWN_LEAK, OWN_RESET };
/* A place's own thresholds, leaks or values to reset to, in the unit of V; 0 where its neurons have those of the
   node. */
static const potential_t *own_values(const State *run, const Part *part, int which, size_t place)
{
    const Node *node = part->node;
    const size_t first = (size_t)node->first_own + (size_t)which * neurons_of(node) + place * (size_t)node->channels;
    return node->first_own ? run->network->constants + first : 0;
}

/* V after the leak of so many steps, 1 or more. A V that no longer changes needs no more of them. */
ALWAYS potential_t faded(potential_t v, potential_t leak, uint32_t steps)
{
    potential_t next = leaked(v, leak);
    for (; steps > 1 && next != v; steps--)
        v = next, next = leaked(v, leak);
    return next;
}

/* V <- leak V, once for each timestep whose leak a place's membranes have missed. clock: timesteps whose leak they
   have had then. Places that nothing reaches are not visited, so leaks are made up for when something does.
   Changes: part->v of the place, part->decayed. */
static void decay(const State *run, const Part *part, size_t place, uint32_t clock)
{
    const potential_t leak = part->constants[NETWORK_LEAK], *const own = own_values(run, part, OWN_LEAK, place);
    const size_t channels = (size_t)part->node->channels, first = place * channels;
    const uint32_t missed = part->decayed ? clock - part->decayed[place] : 0;
    if (!missed)
        return;
    for (size_t o = 0; o < channels && missed > 1; o++)
        set_v(part, first + o, faded(v_at(part, first + o), own ? own[o] : leak, missed - 1));
    for (size_t o = 0; o < channels; o++)
        set_v(part, first + o, leaked(v_at(part, first + o), own ? own[o] : leak));
    part->decayed[place] = clock;
}

/* V <- V, at least the floor, at most the ceiling and `taken` above that: as much as a spike is about to take away.
   Changes: part->v of the place. */
static void bound(const Part *part, size_t place, potential_t taken)
{
    const potential_t least = part->constants[NETWORK_FLOOR], most = plus(part->constants[NETWORK_CEILING], taken);
    const size_t channels = (size_t)part->node->channels;
    for (size_t i = place * channels; i < (place + 1) * channels; i++) {
        const potential_t v = v_at(part, i);
        set_v(part, i, v < least ? least : v > most ? most : v);
    }
}

/* Whether a node's potentials may reach a floor, or a ceiling, in this timestep. */
static int is_bounded(const State *run, const Part *part)
{
    return (float)part->constants[NETWORK_FLOOR] > -FLT_MAX && (run->unproven || run->steps >= (uint32_t)part->node->unbounded);
}

/* Bring the potentials of a place up to date: leaks, and bounds. Changes: part->v and part->decayed of the place. */
static void settle(const State *run, const Part *part, size_t place)
{
    decay(run, part, place, run->steps);
    bound(part, place, 0);
}

/* The same of all places of all nodes. Changes: v and decayed of all parts. */
void network_settle(State *run)
{
    for (int32_t n = 1; n < run->network->nodes; n++)
        for (size_t place = 0; run->part[n].v && place < places_of(run->part[n].node); place++)
            settle(run, &run->part[n], place);
}

/* V <- start + (V - start) keep, of potentials that are up to date. keep: 0 to 1. Changes: part->v. */
static void keep_share(const Part *part, float keep)
{
    const potential_t start = part->constants[NETWORK_START];
    for (size_t i = 0; part->v && i < neurons_of(part->node); i++)
        set_v(part, i, plus(start, kept(minus(v_at(part, i), start), keep)));
}

/* Something reaches the places first to last - 1 of rows top to bottom - 1: they become candidates, at which fire()
   looks, and their leak is brought up to date.
   Changes: part->candidates, has_candidates, and v and decayed of these places. */
ALWAYS void touch(const State *run, Part *part, int32_t top, int32_t bottom, int32_t first, int32_t last, uint32_t clock)
{
    part->has_candidates = 1;
    for (int32_t x = first; part->candidates && x < last; x += 32 - x % 32) {
        const uint32_t mask = 0xFFFFFFFFu >> (32 - least_of(last - x, 32 - x % 32)) << x % 32;
        for (int32_t y = top; y < bottom; y++)
            part->candidates[y * part->row_words + x / 32] |= mask;
    }
    for (int32_t y = top; part->decayed && y < bottom; y++)
        for (int32_t x = first; x < last; x++)
            decay(run, part, (size_t)y * (size_t)part->node->width + (size_t)x, clock);
}

/* V <- 0: what has reached a node was for this timestep alone. Changes: part->v, candidates, has_candidates. */
static void clear_sums(Part *part)
{
    if (!part->has_candidates)
        return;
    wipe(part->v, neurons_of(part->node) * v_bytes(part));
    wipe(part->candidates, bitmap_bytes(part));
    part->has_candidates = 0;
}

/* --- a node: its events. A place sends (sent), some of its neurons do (spikes). */

/* Each bit of a part's bitmap, sent or candidates: in row y, the lowest bit of `bits`, of word `word`; PLACE: its number. */
#define EACH_PLACE(part, bitmap)                                                                                                  \
    for (int32_t y = 0; y < (part)->node->height; y++)                                                                            \
        for (int32_t word = 0; word < (part)->row_words; word++)                                                                  \
            for (uint32_t bits = (part)->bitmap[y * (part)->row_words + word]; bits; bits &= bits - 1)
#define COLUMN (32 * word + lowest(bits))
#define PLACE(part) ((size_t)y * (size_t)(part)->node->width + (size_t)COLUMN)

/* Each neuron of a place that has sent something: the lowest bit of `spikes`, its word w; CHANNEL: its number within the place. */
#define EACH_SPIKE(part, place)                                                                                                   \
    for (int32_t w = 0; w < (part)->words; w++)                                                                                   \
        for (uint32_t spikes = word_at(part, (place) * (size_t)(part)->words + (size_t)w); spikes; spikes &= spikes - 1)
#define CHANNEL ((size_t)(32 * w + lowest(spikes)))

/* Mark the place (y, x) as one that has sent something. Changes: part->sent. */
ALWAYS void mark_sent(Part *part, int32_t y, int32_t x) { part->sent[y * part->row_words + x / 32] |= (uint32_t)1 << x % 32; }

/* A neuron of the place (y, x) sends this value, which adds to what it has sent in this timestep already.
   Changes: part->spikes, sent, count; of a node whose events have values also v, where they lie, and worth. */
ALWAYS void send(Part *part, int32_t y, int32_t x, int32_t channel, potential_t value)
{
    const Node *node = part->node;
    const size_t place = (size_t)y * (size_t)node->width + (size_t)x, neuron = place * (size_t)node->channels + (size_t)channel;
    const size_t at = place * (size_t)part->words + (size_t)(channel / 32);
    const uint32_t word = word_at(part, at), bit = (uint32_t)1 << channel % 32;
    if (node->valued) {
        value = word & bit ? plus(v_at(part, neuron), value) : value;
        set_v(part, neuron, value);
        if (value != 1)
            part->worth = value == -1 && part->worth != NUMBERS ? SIGNS : NUMBERS;
    }
    mark_sent(part, y, x);
    set_word(part, at, word | bit);
    part->count += !(word & bit);
}

/* A node sends nothing any more: its events of the last timestep go. Changes: part->spikes, sent, count, worth. */
static void silence(Part *part)
{
    const size_t words = (size_t)part->words, all = places_of(part->node) * words;
    part->worth = ONES;
    if (!part->count)
        return;
    if (all < FEW_WORDS * (size_t)part->count)
        wipe(part->spikes, all * (size_t)part->bytes);
    else
        EACH_PLACE(part, sent)
            for (size_t w = 0; w < words; w++)
                set_word(part, PLACE(part) * words + w, 0);
    wipe(part->sent, bitmap_bytes(part));
    part->count = 0;
}

/* Counting: count what each neuron has sent in this timestep, apart by whether all values in it were 1 or -1.
   Changes: part->counted. */
static void note(Part *part)
{
    const size_t channels = (size_t)part->node->channels;
    const int are_numbers = part->worth == NUMBERS || part->node->kind == NETWORK_MAP;
    if (!part->counted || !part->count)
        return;
    EACH_PLACE(part, sent)
        EACH_SPIKE(part, PLACE(part))
            part->counted[(are_numbers ? neurons_of(part->node) : 0) + PLACE(part) * channels + CHANNEL]++;
}

/* --- a pixel x, and its prediction p, on the image's scale */

/* x of a grey value, 0 to 1, on the image's scale: -1 to 1 in colour. */
ALWAYS float scaled(float grey, int colour) { return colour ? grey * 2 - 1 : grey; }

/* p of the read-out's sum R, on the image's scale. */
ALWAYS float prediction_of(int readout, int colour, float r)
{
    const float least = colour ? -1.0f : 0.0f;
    if (readout == NETWORK_MEMBRANE_LINEAR)
        return r < least ? least : r > 1 ? 1 : r;
    return colour ? portable_tanh(r) : readout == NETWORK_MEMBRANE ? sigmoid(r) : 2 * sigmoid(r) - 1;
}

/* x of an image's value; p of what is kept of a prediction: p itself, or of NETWORK_SMALL R. */
ALWAYS float x_of(const State *run, pixel_t value) { return IS_SMALL ? scaled((float)value / 255, run->network->colour) : (float)value; }
#define p_of(run, kept) (IS_SMALL ? prediction_of((run)->settings.readout, (run)->network->colour, kept) : (kept))
static const float *kept_predictions(const State *run) { return IS_SMALL ? run->readout_sum : run->prediction; }

/* x and p of a pixel, on the image's scale. */
float network_pixel(const State *run, int pixel) { return x_of(run, run->image[pixel]); }
float network_prediction(const State *run, int pixel) { return p_of(run, kept_predictions(run)[pixel]); }

/* --- encode */

/* Phased: phases since the one in which a node fires: -1 while it charges, as its source fires; 0 in the next phase,
   in which it fires itself, the input in the first; so also in guests/phased/neurons.py. Without phases 0: a node may
   fire, and gets its bias, in every timestep. */
static int32_t turn(const State *run, const Node *node)
{
    const int32_t phase = run->settings.phase_steps;
    return phase ? (int32_t)run->steps / phase - node->depth : 0;
}

static int may_fire(const State *run, const Node *node) { return turn(run, node) == 0; }
static int gets_bias(const State *run, const Node *node) { return !run->settings.phase_steps || turn(run, node) == -1; }

/* Events that are given (network_arrive) become those of the input.
   Changes: those fields of part 0 that send() does, input_events. */
static void receive(State *run)
{
    const Node *node = &run->network->node[0];
    for (int32_t i = 0; i < run->input_count; i++) {
        const int32_t neuron = run->input_events[i], place = neuron / node->channels;
        const potential_t value = run->input_values ? (potential_t)run->input_values[i] : 1;
        send(&run->part[0], place / node->width, place % node->width, neuron % node->channels, value);
    }
    run->input_events = 0;
}

/* The image becomes spikes of the input. poisson: s = sign(x) if u <= |x|, u a random number in [0, 1); direct:
   s = x. Of open pixels alone: a blocked one sends nothing. Where a prediction is taken away (residual), x - p takes the
   place of x.
   Changes: those fields of part 0 that send() does. */
static void encode_image(State *run)
{
    const Node *node = &run->network->node[0];
    const int poisson = run->settings.encoding == NETWORK_POISSON, draws = poisson && !run->uniforms;
    const float *const kept = kept_predictions(run);
    uint32_t words[4][DRAWN];
    for (int32_t i = 0; i < run->blocks; i++) {
        if (draws && i % DRAWN == 0)
            philox((const uint32_t *)run->sending + i, run->steps, run->number, run->epoch, run->key[0], run->key[1], words);
        for (int32_t q = 0; q < 4; q++) {
            const int32_t pixel = 4 * run->sending[i] + q, place = pixel / node->channels;
            potential_t value;
            float unexplained;
            if (pixel >= run->pixels || !run->is_open[pixel])
                continue;
            unexplained = x_of(run, run->image[pixel]) - (run->subtracts_prediction ? p_of(run, kept[pixel]) : 0);
            value = !poisson ? current_of(unexplained) : unexplained > 0 ? 1 : unexplained < 0 ? -1 : 0;
            if (value == 0 || (poisson && (draws ? uniform(words[q][i % DRAWN]) : run->uniforms[pixel]) > absolute(unexplained)))
                continue;
            send(&run->part[0], place / node->width, place % node->width, pixel % node->channels, value);
        }
    }
}

/* The input sends: events that are given, else the image, in the input's phase. Changes: part 0, input_events. */
static void encode(State *run)
{
    if (run->input_events)
        receive(run);
    else if (may_fire(run, &run->network->node[0]))
        encode_image(run);
    note(&run->part[0]);
}

/* --- propagate: charge, fire, reset */

/* Whether the windows of two rows, or columns, of the source reach the same ones of the target. */
static int reach_alike(const int32_t *a, const int32_t *b)
{
    return a[NETWORK_CORNER] == b[NETWORK_CORNER] && a[NETWORK_SKIPPED] == b[NETWORK_SKIPPED];
}

/* V <- V + W s: a spike is added to its targets. For `count` windows of weights (run->begins, and values by which
   each is multiplied, run->values) of one row and one column of the source, whose numbers in `places` are of_row and
   of_column. A corner may stick out over the border of the target, where the window is cut off.
   Changes: v, candidates, has_candidates and decayed of the target, which is the node `into`. */
static void add_windows(State *run, const Part *part, const int32_t *of_row, const int32_t *of_column, int32_t count, uint32_t clock)
{
    if (!count) /* of_row and of_column may then be those of a row and a column without windows */
        return;
    const Node *node = part->node;
    const Part *source = &run->part[node->source];
    Part *const target = &run->part[node->into];
    const weight_t *const weights = run->network->weights;
    const int32_t channels = node->channels, row_size = node->row_size;
    const int32_t row = of_row[NETWORK_CORNER], top = row + of_row[NETWORK_SKIPPED] < 0 ? -row : of_row[NETWORK_SKIPPED];
    const int32_t column = of_column[NETWORK_CORNER];
    const int32_t left = column + of_column[NETWORK_SKIPPED] < 0 ? -column : of_column[NETWORK_SKIPPED];
    const int32_t bottom = least_of(node->side, node->height - row), right = least_of(node->side, node->width - column);
    const int32_t size = (right == node->side ? row_size : right * channels) - left * channels;
    const int valued = source->worth != ONES;
    const size_t stride = (size_t)node->width * (size_t)channels;
    const size_t at = (size_t)(row + top) * stride + (size_t)(column + left) * (size_t)channels;
#ifdef NETWORK_SMALL
    const int kind = !valued ? SPIKES : source->narrow ? PAIRS : VALUES;
#else
    potential_t *to = target->v + at, window[SMALL];
    const int32_t block = node->side * row_size;
#endif
    touch(run, target, row + top, row + bottom, column + left, column + right, clock);
#ifdef NETWORK_SMALL
    if (kind == PAIRS)
        count = in_pairs(run->values, run->begins, count);
    for (int32_t y = top; y < bottom; y++)
        add_sums(target->v, at + (size_t)(y - top) * stride, weights + y * row_size + left * channels, run->begins, run->values, count,
                 size, target->narrow, kind);
#else
    if (count > 1 && block <= SMALL) { /* add them all up first */
        wipe(window, (size_t)block * sizeof *window);
        add_weights(window, weights, run->begins, run->values, count, block, valued);
        for (int32_t y = top; y < bottom; y++, to += stride)
            add_all(to, window + y * row_size + left * channels, size);
    } else if (valued || bottom - top != 3
               || !add_whole(to, stride, weights + top * row_size + left * channels, row_size, run->begins, count, size))
        for (int32_t y = top; y < bottom; y++, to += stride)
            for (int32_t i = 0; i < count; i += AT_ONCE)
                add_weights(to, weights + y * row_size + left * channels, run->begins + i, run->values + i, least_of(AT_ONCE, count - i),
                            size, valued);
#endif
}

/* V <- V + W s for the spikes s of the source in channels first to last - 1. Spikes whose windows lie at the same
   place are listed, and then added together. simple, a constant where this is called: they are all channels, 32 at
   the most.
   Changes: what add_windows() does; run->begins and values, which are lists of this function. */
ALWAYS void add_spikes(State *run, const Part *part, int32_t first, int32_t last, uint32_t clock, const int simple)
{
    const Node *node = part->node;
    const Part *source = &run->part[node->source];
    const int32_t *const rows = run->network->places + node->first_place, *const columns = rows + NETWORK_PLACES * source->node->height;
    const size_t block = (size_t)node->side * (size_t)node->row_size, channels = (size_t)source->node->channels;
    const int32_t *of_row = rows, *of_column = columns; /* of the windows that are listed */
    const int32_t words = source->words, most = run->network->windows;
    int32_t count = 0;
    EACH_PLACE(source, sent) {
        const size_t place = PLACE(source);
        const int32_t *const its_row = rows + NETWORK_PLACES * y, *const its_column = columns + NETWORK_PLACES * COLUMN;
        const int32_t set = its_row[NETWORK_SET] + its_column[NETWORK_SET];
        size_t begin;
        if (its_row[NETWORK_SET] < 0 || its_column[NETWORK_SET] < 0)
            continue;
        if (!reach_alike(its_row, of_row) || !reach_alike(its_column, of_column))
            add_windows(run, part, of_row, of_column, count, clock), count = 0;
        of_row = its_row, of_column = its_column;
        begin = (size_t)node->first_weight + (size_t)set * channels * block;
        for (int32_t w = simple ? 0 : first / 32; simple ? w < 1 : 32 * w < last; w++) {
            uint32_t spikes = word_at(source, place * (size_t)words + (size_t)w);
            if (!simple) {
                spikes &= first > 32 * w ? 0xFFFFFFFFu << (first - 32 * w) : 0xFFFFFFFFu;
                spikes &= last < 32 * w + 32 ? ((uint32_t)1 << (last - 32 * w)) - 1 : 0xFFFFFFFFu;
            }
            for (; spikes; spikes &= spikes - 1) {
                if (count == most)
                    add_windows(run, part, of_row, of_column, count, clock), count = 0;
                run->begins[count] = begin + CHANNEL * block;
                if (source->worth != ONES)
                    run->values[count] = v_at(source, place * channels + CHANNEL);
                count++;
            }
        }
    }
    add_windows(run, part, of_row, of_column, count, clock);
}

/* V <- V + w s, where the link is SAME: what (y, x) sends reaches the place that lies there after the halvings, times
   one weight.
   Changes: v, candidates, has_candidates and decayed of the node `into`. */
static void add_same(State *run, const Part *part, uint32_t clock)
{
    const Node *node = part->node;
    const Part *source = &run->part[node->source];
    Part *const target = &run->part[node->into];
    const potential_t weight = run->network->weights[node->first_weight];
    const size_t channels = (size_t)node->channels;
    EACH_PLACE(source, sent) {
        const int32_t row = y >> node->halvings, column = COLUMN >> node->halvings;
        const size_t from = PLACE(source) * channels, to = ((size_t)row * (size_t)node->width + (size_t)column) * channels;
        if (row >= node->height || column >= node->width)
            continue;
        touch(run, target, row, row + 1, column, column + 1, clock);
        EACH_SPIKE(source, PLACE(source)) {
            const potential_t value = source->worth == ONES ? 1 : v_at(source, from + CHANNEL);
            set_v(target, to + CHANNEL, plus(v_at(target, to + CHANNEL), times(weight, value)));
        }
    }
}

/* V <- V + b + W s, where V has had the leaks of `clock` timesteps: a node takes its bias, and what its source has
   sent. Where weights are more than the cache holds and places have many spikes, one group of channels after the
   other: its weights are read from memory once, and for all other places from the cache.
   Changes: v, candidates, has_candidates and decayed of the node, or of the node `into`; run->begins and values. */
static void charge(State *run, Part *part, uint32_t clock)
{
    const Node *node = part->node;
    const Part *source = &run->part[node->source];
    const int32_t channels = source->node->channels;
    int32_t group = node->group;
    size_t places = 0;
    if (node->first_bias && gets_bias(run, node)) {
        const potential_t *bias = run->network->constants + node->first_bias;
        touch(run, part, 0, node->height, 0, node->width, clock);
        for (size_t place = 0, at = 0; place < places_of(node); place++, bias += node->first_own ? node->channels : 0)
            for (int32_t o = 0; o < node->channels; o++, at++)
                set_v(part, at, plus(v_at(part, at), bias[o]));
    }
    if (!source->count)
        return;
    if (node->link == NETWORK_SAME) {
        add_same(run, part, clock);
        return;
    }
    for (size_t i = 0; group < channels && i < bitmap_bytes(source) / sizeof *source->sent; i++)
        places += (size_t)how_many(source->sent[i]);
    if ((size_t)source->count * (size_t)group < FOR_A_GROUP * (size_t)channels * places)
        group = channels;
    if (source->words == 1 && group == channels)
        add_spikes(run, part, 0, group, clock, 1);
    else
        for (int32_t first = 0; first < channels; first += group)
            add_spikes(run, part, first, least_of(channels, first + group), clock, 0);
}

/* Bit i: whether V > theta, of `count` neurons, 32 at most. thetas: thresholds of their own, or 0. */
ALWAYS uint32_t crossed(const Part *part, size_t first, int32_t count, potential_t theta, const potential_t *thetas)
{
    uint32_t bits = 0;
#ifndef NETWORK_SMALL
    if (!thetas)
        return above(part->v + first, count, theta);
#endif
    for (int32_t i = 0; i < count; i++)
        bits |= (uint32_t)(v_at(part, first + (size_t)i) > (thetas ? thetas[i] : theta)) << i;
    return bits;
}

/* V <- the value to reset to, or V - theta, of the bits `fired` in word w of a place. Returns whether one is still
   above its theta.
   Changes: part->v of these neurons. */
ALWAYS int reset_fired(const State *run, const Part *part, size_t place, int32_t w, uint32_t fired)
{
    const Node *node = part->node;
    const potential_t theta = part->constants[NETWORK_THRESHOLD], *thetas, *values;
    const size_t first = place * (size_t)node->channels;
    int still = 0;
#ifndef NETWORK_SMALL
    if (!node->first_reset && !node->first_own)
        return lower(part->v + first + 32 * (size_t)w, fired, least_of(node->channels - 32 * w, 32), theta) != 0;
#endif
    thetas = own_values(run, part, OWN_THRESHOLD, place), values = own_values(run, part, OWN_RESET, place);
    for (; fired; fired &= fired - 1) {
        const size_t o = (size_t)(32 * w + lowest(fired));
        const potential_t its_theta = thetas ? thetas[o] : theta, v = v_at(part, first + o);
        const potential_t next = !node->first_reset ? minus(v, its_theta) : values ? values[o] : run->network->constants[node->first_reset];
        set_v(part, first + o, next);
        still |= next > its_theta;
    }
    return still;
}

/* s = 1 where V > theta, and there V <- V - theta, or the value to reset to. It looks at candidates alone: places
   that something has reached. A place that fires stays one where V is still above theta, may be below the floor, or
   is reset in the next timestep or never. clock: timesteps whose leak the potential has had that is compared. A
   delayed neuron leaks before its reset.
   Changes: part->v, decayed, spikes, sent, count, candidates, has_candidates, counted. */
static void fire(State *run, Part *part, uint32_t clock)
{
    const Node *node = part->node;
    const potential_t theta = part->constants[NETWORK_THRESHOLD];
    const int bounds = is_bounded(run, part), next_step = node->resets == NETWORK_RESET_NEXT_STEP, now = node->resets == NETWORK_RESET_NOW;
    const potential_t *const thetas = own_values(run, part, OWN_THRESHOLD, 0);
    const int32_t channels = node->channels, words = part->words;
    uint32_t any_stays = 0, count = 0;
    for (int32_t y = 0; part->has_candidates && y < node->height; y++)
        for (int32_t word = 0; word < part->row_words; word++) {
            uint32_t *const candidates = &part->candidates[y * part->row_words + word], keep = 0, sent = 0;
            for (uint32_t bits = *candidates; bits; bits &= bits - 1) {
                const size_t place = PLACE(part), at = place * (size_t)words;
                const uint32_t bit = bits & (~bits + 1);
                uint32_t any = 0;
                if (part->decayed)
                    decay(run, part, place, clock);
                for (int32_t w = 0; next_step && w < words; w++) /* the spikes of the step before */
                    reset_fired(run, part, place, w, word_at(part, at + (size_t)w));
                if (bounds)
                    bound(part, place, run->settings.immediate ? theta : 0);
                for (int32_t w = 0; w < words; w++) {
                    const size_t first = place * (size_t)channels + 32 * (size_t)w;
                    const uint32_t fired = crossed(part, first, least_of(channels - 32 * w, 32), theta, thetas ? thetas + first : 0);
                    set_word(part, at + (size_t)w, fired);
                    count += (uint32_t)how_many(fired);
                    any |= fired;
                }
                if (!any)
                    continue;
                sent |= bit;
                if (part->decayed && !run->settings.immediate)
                    decay(run, part, place, clock + 1);
                keep |= bounds || !now ? bit : 0;
                for (int32_t w = 0; now && w < words; w++)
                    keep |= reset_fired(run, part, place, w, word_at(part, at + (size_t)w)) ? bit : 0;
            }
            part->sent[y * part->row_words + word] = sent;
            *candidates = keep;
            any_stays |= keep;
        }
    part->has_candidates = any_stays != 0, part->count = count;
    note(part);
}

/* The sums that have reached a node become events whose values they are: of relays, integrators and maps.
   Changes: part->spikes, sent, count, worth, counted; v stays as it is. */
static void release(Part *part)
{
    EACH_PLACE(part, candidates)
        for (int32_t o = 0; o < part->node->channels; o++) {
            const potential_t v = v_at(part, PLACE(part) * (size_t)part->node->channels + (size_t)o);
            if (v != 0)
                send(part, y, COLUMN, o, v);
        }
    note(part);
}

/* A 2 x 2 maximum pool: a spike passes where any of its four neurons spikes (an odd row or column is left out), or,
   where it counts, where the highest spike count of the four rises.
   Changes: part->spikes, sent, count, counted; counting pools: passed of the pool and of its source. */
static void pool(State *run, Part *part)
{
    const Node *node = part->node;
    const Part *source = &run->part[node->source];
    const int counts = node->kind == NETWORK_COUNTING_POOL;
    const size_t channels = (size_t)node->channels, words = (size_t)part->words;
    EACH_PLACE(source, sent) {
        const int32_t row = y / 2, column = COLUMN / 2;
        const size_t from = PLACE(source), to = (size_t)row * (size_t)node->width + (size_t)column;
        if (row >= node->height || column >= node->width)
            continue;
        for (size_t w = 0; w < words; w++) {
            const uint32_t passed = word_at(part, to * words + w);
            uint32_t spikes = word_at(source, from * words + w);
            for (uint32_t left = spikes; counts && left; left &= left - 1) {
                const size_t channel = 32 * w + (size_t)lowest(left);
                uint32_t *const its = &source->passed[from * channels + channel], *const highest = &part->passed[to * channels + channel];
                *its += source->node->kind != NETWORK_COUNTING_POOL; /* which has counted what it let through */
                if (*its > *highest)
                    ++*highest;
                else
                    spikes &= ~(left & (~left + 1));
            }
            part->count += (uint32_t)how_many(spikes & ~passed);
            set_word(part, to * words + w, passed | spikes);
            if (spikes)
                mark_sent(part, row, column);
        }
    }
    note(part);
}

/* O <- mu O + W s + b, and the logits, times what a whole number of O is worth; the places of a channel lie side by
   side in them.
   Changes: part->v, which is O, and what charge() does; run->logits. */
static void add_up(State *run, Part *part)
{
    const int32_t channels = part->node->channels;
    const potential_t leak = part->constants[NETWORK_LEAK];
    float *logit = run->logits;
    for (size_t i = 0; leak != (potential_t)LEAK_ONE && i < (size_t)run->classes; i++)
        set_v(part, i, leaked(v_at(part, i), leak));
    charge(run, part, 0);
    bound(part, 0, 0);
    for (int32_t o = 0; o < channels; o++)
        for (int32_t at = o; at < run->classes; at += channels)
            *logit++ = (float)v_at(part, (size_t)at) * run->settings.logits_scale;
}

/* One timestep of a node. Until then it holds what it sent in the last one: that is what an edge back takes, a link
   whose target runs before its source (see _source_of_edge_back() in layout.py).
   Changes: the node's part; of an ADDING v, candidates, has_candidates and decayed of the node `into`; of the OUTPUT
   run->logits; of a counting pool passed of its source. */
static void propagate(State *run, Part *part)
{
    const Node *node = part->node;
    const uint32_t immediate = (uint32_t)run->settings.immediate, clock = run->steps;
    if (node->resets == NETWORK_RESET_NEXT_STEP)
        part->count = 0; /* the spikes stay until they are reset */
    else
        silence(part);
    switch (node->kind) {
    case NETWORK_NEURONS:
        if (immediate)
            charge(run, part, clock + 1);
        if (may_fire(run, node))
            fire(run, part, clock + immediate);
        if (!immediate)
            charge(run, part, clock + 1);
        break;
    case NETWORK_OUTPUT:
        add_up(run, part);
        break;
    case NETWORK_POOL:
    case NETWORK_COUNTING_POOL:
        pool(run, part);
        break;
    case NETWORK_DECODED:
    case NETWORK_ADDING:
        charge(run, part, clock + 1);
        break;
    default: /* RELAY, INTEGRATOR, MAP */
        EACH_PLACE(part, candidates)
            decay(run, part, PLACE(part), clock + 1);
        charge(run, part, clock + 1);
        release(part);
    }
}

/* --- read out */

/* p on the image's scale, from R, of pixels first to last - 1; NETWORK_SMALL finds each where it is needed. Compilers
   make vectors of a loop whose form is constant.
   Changes: run->prediction. */
static void predict(State *run, int32_t first, int32_t last)
{
#define EACH_BY(readout, colour) for (int32_t i = first; i < last; i++) p[i] = prediction_of(readout, colour, r[i])
    const int readout = run->settings.readout, colour = run->network->colour;
    const float *const r = run->readout_sum;
    float *const p = run->prediction;
    if (IS_SMALL)
        return;
    if (readout == NETWORK_MEMBRANE_LINEAR)
        EACH_BY(NETWORK_MEMBRANE_LINEAR, colour);
    else if (colour)
        EACH_BY(NETWORK_MEMBRANE, 1);
    else if (readout == NETWORK_MEMBRANE)
        EACH_BY(NETWORK_MEMBRANE, 0);
    else
        EACH_BY(NETWORK_SPIKE_COUNT, 0);
}

/* A pixel is predicted where |p - x| < epsilon; then its input neuron is blocked, for good, or until it is not
   (dynamic). Where the channels of a pixel are judged as one (per_pixel), it is predicted where all are. Of pixels
   first to last - 1, whole places.
   Changes: run->predicted, is_open, changed. */
static void gate(State *run, int32_t first, int32_t last)
{
    const int32_t channels = run->settings.per_pixel ? run->network->node[0].channels : 1;
    const float *const p = kept_predictions(run), epsilon = run->settings.epsilon;
    const pixel_t *const x = run->image;
    const uint8_t dynamic = run->settings.dynamic != 0;
    uint8_t *const predicted = run->predicted, *const is_open = run->is_open, changed = 0;
    for (int32_t i = first; i < last; i++)
        predicted[i] = absolute(p_of(run, p[i]) - x_of(run, x[i])) < epsilon;
    for (int32_t place = first; channels > 1 && place < last; place += channels) {
        uint8_t all = 1;
        for (int32_t i = place; i < place + channels; i++)
            all &= predicted[i];
        for (int32_t i = place; i < place + channels; i++)
            predicted[i] = all;
    }
    for (int32_t i = first; i < last; i++) {
        const uint8_t opens = (uint8_t)((predicted[i] ^ 1) & (dynamic | is_open[i]));
        changed |= opens ^ is_open[i];
        is_open[i] = opens;
    }
    run->changed |= changed;
}

/* R <- rho R + d, d the decoder's output, held where a pixel is blocked (latch); with a slew limit sigma, sigma
   tanh(d / sigma) takes the place of d: it moves R by sigma at most. Of `count` pixels from
   first on, CHUNK at most.
   Changes: run->readout_sum. */
static void read_out(State *run, int32_t first, int32_t count)
{
    const Part *const decoded = &run->part[run->network->decoded];
    const float slew = run->settings.readout_slew, leak = run->settings.readout_leak, scale = run->settings.decoded_scale;
    const int latch = run->settings.latch;
    float *const r = run->readout_sum + first, moves[CHUNK];
    const uint8_t *const is_open = run->is_open + first;
    for (int32_t i = 0; i < count; i++)
        moves[i] = (float)v_at(decoded, (size_t)(first + i)) * scale;
    for (int32_t i = 0; slew > 0 && i < count; i++)
        moves[i] = slew * portable_tanh(moves[i] / slew);
    for (int32_t i = 0; i < count; i++) {
        const float next = leak * r[i] + moves[i];
        r[i] = latch && !is_open[i] ? r[i] : next;
    }
}

/* List the pixels that may send, by blocks of four, and count pixels: those that are not 0, those that are open, and
   both.
   Changes: run->sending, blocks, active, open, open_active, scratch, changed. */
static void list_sending(State *run)
{
    const pixel_t *const x = run->image;
    const uint8_t *const is_open = run->is_open, explained = run->subtracts_prediction != 0;
    uint8_t *const may = run->scratch; /* with zeros behind the last pixel */
    int32_t *const sending = run->sending;
    const int32_t pixels = run->pixels; /* not read again behind each byte that is written */
    int32_t active = 0, open = 0, open_active = 0, blocks = 0;
    for (int32_t i = 0; i < pixels; i++) {
        const uint8_t is_active = x_of(run, x[i]) != 0;
        active += is_active;
        open += is_open[i];
        open_active += is_active & is_open[i];
        may[i] = is_open[i] & (is_active | explained);
    }
    for (int32_t i = 0; 4 * i < pixels; i++) {
        sending[blocks] = i;
        blocks += may[4 * i] | may[4 * i + 1] | may[4 * i + 2] | may[4 * i + 3];
    }
    run->active = active, run->open = open, run->open_active = open_active, run->blocks = blocks;
    run->changed = 0;
}

/* Read-out, prediction, and the gate's look at it, of the pixels that the decoder has moved, or of all.
   Changes: run->readout_sum, prediction, predicted, is_open, changed, look_again, subtracts_prediction, and what
   list_sending() does. */
static void read_out_and_gate(State *run)
{
    const Part *const decoded = &run->part[run->network->decoded];
    const int everywhere = run->look_again || run->settings.readout_leak != 1;
    const int32_t channels = run->network->node[0].channels, size = channels * ((CHUNK + channels - 1) / channels);
    for (int32_t first = 0; first < run->pixels; first += size) {
        const int32_t last = least_of(first + size, run->pixels);
        int moved = everywhere;
        for (int32_t i = first; i < last; i++)
            moved |= v_at(decoded, (size_t)i) != 0;
        if (!moved)
            continue;
        for (int32_t i = first; i < last; i += CHUNK)
            read_out(run, i, least_of(CHUNK, last - i));
        predict(run, first, last);
        gate(run, first, last);
    }
    run->look_again = 0;
    if (run->changed || run->subtracts_prediction != run->settings.residual) {
        run->subtracts_prediction = run->settings.residual;
        list_sending(run);
    }
}

/* --- stopping rules */

/* A part of a whole, 0 to 1; of a whole of 0 as of 1. */
static float share(int32_t part, int32_t whole) { return (float)part / (float)(whole > 1 ? whole : 1); }

#ifndef NETWORK_SMALL
/* The entropy of softmax(O) as a part of its largest value, 0 to 1; in double, by this machine's exp and log. */
static float entropy(const State *run)
{
    const float best = run->logits[network_answer(run)];
    double total = 0, weighted = 0;
    for (int32_t o = 0; o < run->classes; o++) {
        const double above_best = (double)(run->logits[o] - best), p = exp(above_best);
        total += p;
        weighted += p * above_best;
    }
    return (float)((log(total) - weighted / total) / log((double)run->classes));
}
#else
#define entropy(run) 2.0f /* no exp and log: it ends no image */
#endif

/* Whether the stopping rule holds after a timestep, so that the image may end: early exit. By the margin of the
   logits, their entropy, or the share of active pixels that are still open. */
static int holds(const State *run)
{
    const Settings *set = &run->settings;
    const int both = set->rule == NETWORK_BOTH, enough_predicted = share(run->open_active, run->active) <= set->open_bound;
    if (both || set->rule == NETWORK_CONFIDENCE)
        return (enough_predicted || !both) && network_margin(run) >= set->gap_bound;
    return set->rule == NETWORK_ALL_PREDICTED ? enough_predicted : set->rule == NETWORK_ENTROPY && entropy(run) <= set->entropy_bound;
}

/* --- a timestep */

/* What arrives in the next timestep, see network.h.
   Changes: run->input_events, input_values, input_count, unproven. */
int network_arrive(State *run, const int32_t *events, int32_t count)
{
    if (!run->network->node[0].valued)
        return 0;
    for (int32_t i = 0; i < count; i++)
        if (events[i] < 0 || events[i] >= run->pixels)
            return 0;
    run->input_events = events;
    run->input_values = 0;
    run->input_count = count;
    run->unproven = 1;
    return 1;
}

/* One timestep of the network. Returns whether the stopping rule holds after it. Changes: run, and all parts. */
int network_step(State *run)
{
    const NetworkTables *network = run->network;
    silence(&run->part[0]);
    encode(run);
    for (int32_t i = 0; i < network->forward + network->feedback; i++)
        if (i < network->forward || run->settings.feedback)
            propagate(run, &run->part[network->order[i]]);
        else
            silence(&run->part[network->order[i]]);
    if (run->settings.feedback)
        read_out_and_gate(run);
    for (int32_t n = 1; n < network->nodes; n++) {
        const int kind = network->node[n].kind;
        if (kind == NETWORK_RELAY || kind == NETWORK_MAP || kind == NETWORK_DECODED)
            clear_sums(&run->part[n]);
    }
    run->steps++;
    return holds(run);
}

/* --- another image takes the place of the one before */

/* Reset on change: of an image of whose active pixels a share r has opened, 1 - min(1, surprise r) is kept of all
   membranes, outputs and predictions, of those pixels' predictions nothing; then all are judged anew. run->scratch:
   which were open before.
   Changes: v and decayed of all parts; run->readout_sum, prediction, predicted, is_open, changed,
   subtracts_prediction. */
static void reset_on_change(State *run)
{
    float change, keep;
    int32_t opened = 0, active = 0;
    for (int32_t i = 0; i < run->pixels; i++) {
        active += x_of(run, run->image[i]) != 0;
        opened += x_of(run, run->image[i]) != 0 && run->is_open[i] && !run->scratch[i];
    }
    change = run->settings.surprise * share(opened, active);
    keep = 1 - (change < 1 ? change : 1);
    network_settle(run);
    for (int32_t n = 1; keep != 1 && n < run->network->nodes; n++)
        keep_share(&run->part[n], keep);
    run->subtracts_prediction = run->settings.residual;
    for (int32_t i = 0; i < run->pixels; i++)
        run->readout_sum[i] = run->is_open[i] && !run->scratch[i] ? 0 : run->readout_sum[i] * keep;
    predict(run, 0, run->pixels);
    gate(run, 0, run->pixels);
}

/* Whether another image may take the place of the one before, see network.h. */
int network_streams(const State *run)
{
    int counts = 0;
    for (int32_t n = 0; n < run->network->nodes; n++)
        counts |= run->network->node[n].kind == NETWORK_COUNTING_POOL;
    return !counts && !run->settings.phase_steps;
}

/* Show an image: bytes, 0 to 255, or numbers, which are x itself. Where a pixel, or a place that is judged as one,
   has changed, the gate looks at it again.
   Changes: run->image, begun, scratch; what gate(), reset_on_change() and list_sending() do. */
static void show(State *run, const uint8_t *bytes, const pixel_t *numbers)
{
    const int32_t size = run->settings.per_pixel ? run->network->node[0].channels : 1, colour = run->network->colour;
    int opens = 0, differs = !run->begun;
    for (int32_t first = 0; first < run->pixels; first += size) {
        int other = 0;
        for (int32_t i = first; i < first + size; i++) {
            const pixel_t x = numbers ? numbers[i] : IS_SMALL ? bytes[i] : (pixel_t)scaled((float)bytes[i] / 255, colour);
            other |= x != run->image[i];
            run->scratch[i] = run->is_open[i];
            run->image[i] = x;
        }
        if (run->begun && run->settings.feedback && other)
            gate(run, first, first + size);
        differs |= other;
    }
    for (int32_t i = 0; i < run->pixels; i++)
        opens |= run->is_open[i] && !run->scratch[i];
    if (opens && run->settings.surprise > 0)
        reset_on_change(run);
    if (differs)
        list_sending(run);
    run->begun = 1;
}

/* Show an image of bytes, see network.h. Changes: what show() does; nothing where it returns 0. */
int network_show(State *run, const uint8_t *pixels)
{
    if (run->begun && !network_streams(run))
        return 0;
    show(run, pixels, 0);
    return 1;
}

/* --- a run */

/* Bring the network to rest, at step 0, all pixels open and black, with V at its start; see network.h.
   Changes: run->key, number, steps, begun, unproven, look_again, subtracts_prediction, image, readout_sum, prediction,
   predicted, is_open, logits, and what list_sending() does; of all parts v, spikes, sent, count, worth, candidates,
   has_candidates, decayed, passed. */
void network_reset(State *run, uint32_t key0, uint32_t key1, uint32_t image)
{
    run->key[0] = key0, run->key[1] = key1, run->number = image;
    run->steps = 0;
    run->begun = run->subtracts_prediction = run->unproven = 0;
    run->look_again = 1;
    for (int32_t n = 0; n < run->network->nodes; n++) {
        const potential_t start = run->part[n].constants[NETWORK_START];
        Part *const part = &run->part[n], at = *part; /* locals: whole numbers that are written might be fields */
        const size_t neurons = neurons_of(part->node);
        silence(part);
        for (size_t i = 0; at.v && i < neurons; i++)
            set_v(&at, i, start);
        wipe(part->candidates, bitmap_bytes(part));
        wipe(part->decayed, sizeof *part->decayed * places_of(part->node));
        wipe(part->passed, sizeof *part->passed * neurons);
        part->has_candidates = 0;
        if (n > 0 && part->node->kind == NETWORK_NEURONS && start > part->constants[NETWORK_THRESHOLD])
            touch(run, part, 0, part->node->height, 0, part->node->width, 0);
    }
    for (int32_t i = 0; i < run->pixels; i++) {
        run->is_open[i] = 1, run->predicted[i] = 0;
        run->image[i] = 0;
        run->readout_sum[i] = 0;
    }
    wipe(run->logits, sizeof *run->logits * (size_t)run->classes);
    predict(run, 0, run->pixels);
    list_sending(run);
}

/* Other settings from the next timestep on, see network.h. All neurons and pixels are looked at again; without
   feedback all pixels open.
   Changes: run->settings, is_open, predicted, prediction, look_again, subtracts_prediction; candidates, v and decayed
   of neurons; what list_sending() does. Nothing where it returns 0. */
int network_set(State *run, const Settings *settings)
{
    if (!network_accepts(run->network, settings))
        return 0;
    run->settings = *settings;
    for (int32_t i = 0; !settings->feedback && i < run->pixels; i++)
        run->is_open[i] = 1, run->predicted[i] = 0;
    run->subtracts_prediction = run->subtracts_prediction && settings->feedback;
    for (int32_t n = 1; n < run->network->nodes; n++)
        if (run->network->node[n].kind == NETWORK_NEURONS)
            touch(run, &run->part[n], 0, run->part[n].node->height, 0, run->part[n].node->width, run->steps);
    predict(run, 0, run->pixels);
    run->look_again = 1;
    list_sending(run);
    return 1;
}

/* --- what there is to see */

/* The class with the largest logit; of equal ones the first. */
int network_answer(const State *run)
{
    int best = 0;
    for (int32_t o = 1; o < run->classes; o++)
        best = run->logits[o] > run->logits[best] ? o : best;
    return best;
}

/* How far the largest logit lies above the second largest, in the unit of the logits. */
float network_margin(const State *run)
{
    const int best = network_answer(run);
    float second = -FLT_MAX;
    for (int32_t o = 0; o < run->classes; o++)
        second = o != best && run->logits[o] > second ? run->logits[o] : second;
    return run->logits[best] - second;
}

/* Neurons of a layer; how many of them spiked in the latest timestep; its threshold. */
int network_layer_size(const State *run, int layer) { return (int)neurons_of(&run->network->node[layer]); }
uint32_t network_spikes(const State *run, int layer) { return run->part[layer].count; }
potential_t network_threshold(const State *run, int layer) { return run->part[layer].constants[NETWORK_THRESHOLD]; }

/* Whether a neuron of a layer spiked in the latest timestep: 0 or 1. */
int network_spiked(const State *run, int layer, int neuron)
{
    const Part *part = &run->part[layer];
    const int32_t channel = neuron % part->node->channels, place = neuron / part->node->channels;
    return word_at(part, (size_t)(place * part->words + channel / 32)) >> channel % 32 & 1;
}

/* V of a neuron after the latest timestep; 0 of the input.
   Changes: v and decayed of its place, which is brought up to date. */
potential_t network_potential(const State *run, int layer, int neuron)
{
    if (layer == 0)
        return 0;
    settle(run, &run->part[layer], (size_t)(neuron / run->network->node[layer].channels));
    return v_at(&run->part[layer], (size_t)neuron);
}

/* Name of a layer, which ends in 0. */
const char *network_layer_name(const State *run, int layer)
{
    const char *name = run->network->names;
    while (layer-- > 0)
        while (*name++)
            ;
    return name;
}
