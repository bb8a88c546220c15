#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

/* The whole user space of the machine: it says what kernel it runs on, and waits. */
int main(void)
{
	struct utsname name;

	uname(&name);
	printf("lab-env: up on %s %s\n", name.release, name.machine);
	fflush(stdout);
	for (;;)
		pause();
}
