/* WebAssembly has no libm, but an instruction for rintf. The kernel wants exp and log for the rule entropy alone, which a page does
   not ask for. */
#define rintf __builtin_rintf
#define exp(x) (x)
#define log(x) (x)
