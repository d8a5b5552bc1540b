/* WebAssembly has no libm. The kernel wants exp and log for the rule entropy alone, which a page does not ask for. */
#define exp(x) (x)
#define log(x) (x)
