/* Ten images, one every two seconds, as characters: what the network sees, what it predicts, and its answer. */
#include <weights.h>
#include "golden.h"

static size_t memory[(NETWORK_BYTES) / sizeof(size_t) + 1];
static const char *const classes[] = NETWORK_CLASS_NAMES;
static NetworkState *run;
static int image;

static void draw(float (*value)(const NetworkState *, int), int32_t y)
{
    const NetworkNode *input = &network_tables.node[0];
    const float least = network_tables.colour ? -1 : 0;
    for (int32_t x = 0; x < input->width; x++) {
        const float light = (value(run, (y * input->width + x) * input->channels) - least) / (1 - least);
        Serial.print(" .:-=+*#%@"[light < 0 ? 0 : light > 0.99f ? 9 : (int)(10 * light)]);
    }
}

void setup()
{
    Serial.begin(115200);
    run = network_begin(&network_tables, &network_defaults, memory, sizeof memory);
}

void loop()
{
    long spikes = 0;
    long step = 0;
    int last = 0;
    if (!run) {
        Serial.println("the network does not begin, see network_begin in network.h");
        delay(2000);
        return;
    }
    network_reset(run, golden_key[0], golden_key[1], golden_numbers[image]);
    network_show(run, golden_pixels + (size_t)image * NETWORK_PIXELS);
    const unsigned long began = millis();
    while (!last && step < NETWORK_TIMESTEPS) {
        last = network_step(run);
        step++;
        for (int layer = 0; layer < NETWORK_LAYERS; layer++)
            spikes += network_spikes(run, layer);
    }
    const unsigned long taken = millis() - began;
    for (int32_t y = 0; y < network_tables.node[0].height; y++) {
        draw(network_pixel, y);
        Serial.print(" | ");
        draw(network_prediction, y);
        Serial.println();
    }
    Serial.print("class ");
    Serial.print(classes[network_answer(run)]);
    Serial.print(", timesteps ");
    Serial.print(step);
    Serial.print(", spikes ");
    Serial.print(spikes);
    Serial.print(", milliseconds ");
    Serial.println(taken);
    image = (image + 1) % golden_inputs;
    delay(2000);
}
