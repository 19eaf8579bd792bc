# Everything of the micro-guest that runs in ring 0. It is assembly so that a KVM which only emulates ring 0 meets no
# instruction that it cannot emulate (docs/micro-guest.md has the table): no SSE, no `int n`, no `syscall`.

# ---------------------------------------------------------------- start of a processor

.section .text.boot, "ax"
.code64

# The boot processor enters here by the Linux 64-bit boot protocol: long mode, low memory mapped one to one, interrupts
# off, rsi = boot_params. The other processors join at start_processor, out of the trampoline below.
.global _start
_start:
    cli
    mov [rip + BOOT_PARAMS], rsi

start_processor:
    lea rax, [rip + pml4]
    mov cr3, rax

    # Switch the local APIC to x2APIC mode and ask it who we are.
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x802
    rdmsr
    mov ebx, eax
    cmp ebx, {MAX_CPUS}
    jb 1f
    mov edx, {PORT_END}
    mov eax, {END_TOO_MANY_CPUS}
    out dx, eax
    jmp park
1:
    # rbp = this processor's block; its end is the ring-0 stack.
    mov rbp, rbx
    shl rbp, {CPU_BLOCK_SHIFT}
    lea rax, [rip + CPU_BLOCKS]
    add rbp, rax
    lea rsp, [rbp + {CPU_BLOCK_BYTES}]
    mov [rbp + {CPU_ID}], rbx

    lgdt [rip + gdt_pointer]
    push {KERNEL_CODE}
    lea rax, [rip + 2f]
    push rax
    retfq
2:
    mov eax, {KERNEL_DATA}
    mov ss, eax
    mov eax, {USER_DATA}
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax

    # The task state segment: where ring 0's stack is, and which ports ring 3 may use. rdi = its address.
    mov rdi, rbx
    shl rdi, {TSS_SHIFT}
    lea rax, [rip + task_states]
    add rdi, rax
    mov [rdi + 4], rsp
    # Its descriptor, SDM Vol. 3A section 8.2.3: base in four pieces, type 9 (available 64-bit TSS), present.
    mov rsi, rbx
    shl rsi, 4
    lea rax, [rip + gdt_tasks]
    add rsi, rax
    mov word ptr [rsi], {TSS_LIMIT}
    mov [rsi + 2], di
    mov rax, rdi
    shr rax, 16
    mov [rsi + 4], al
    mov byte ptr [rsi + 5], 0x89
    mov byte ptr [rsi + 6], 0
    mov [rsi + 7], ah
    shr rax, 16
    mov [rsi + 8], rax
    mov eax, ebx
    shl eax, 4
    add eax, {FIRST_TASK}
    ltr ax
    lidt [rip + idt_pointer]

    # Floating point: no emulation, no lazy switch; SSE, and AVX where the processor has it.
    mov rax, cr0
    and rax, -0xd
    or rax, 0x22
    mov cr0, rax
    mov rax, cr4
    or rax, 0x600
    mov cr4, rax
    mov eax, 1
    xor ecx, ecx
    cpuid
    and ecx, 0x14000000
    cmp ecx, 0x14000000
    jne 3f
    mov rax, cr4
    or rax, 0x40000
    mov cr4, rax
    xor ecx, ecx
    xor edx, edx
    mov eax, 7
    xsetbv
    mov qword ptr [rbp + {CPU_AVX}], 1
3:
    # Accept interrupts of every priority: task priority 0, APIC enabled in software, spurious vector 0xff.
    mov ecx, 0x808
    xor eax, eax
    xor edx, edx
    wrmsr
    mov ecx, 0x80f
    mov eax, 0x1ff
    wrmsr

    mov rdi, [rbp + {CPU_ID}]
    lea rax, [rip + ring3_start]

# To ring 3 for good, at rax with rdi as the argument, on a fresh stack. rbp = this processor's block.
enter_ring3:
    mov rcx, [rbp + {CPU_ID}]
    inc rcx
    shl rcx, {USER_STACK_SHIFT}
    lea rdx, [rip + USER_STACKS]
    lea rcx, [rdx + rcx - 8]
    lea rsp, [rbp + {CPU_BLOCK_BYTES}]
    push {USER_DATA}
    push rcx
    push 0x202
    push {USER_CODE}
    push rax
    iretq

# ---------------------------------------------------------------- trampoline of the other processors

# Copied to TRAMPOLINE, where a start-up IPI makes a processor begin in real mode with cs:ip = (TRAMPOLINE / 16):0.
# Protection and paging go on in one step (long mode is enabled first), which leads straight into 64-bit code.
.global trampoline_start
trampoline_start:
.code16
    cli
    mov ax, cs
    mov ds, ax
    lgdt [{TRAMPOLINE_GDT}]
    mov eax, 0x20
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    xor edx, edx
    mov eax, 0x100
    wrmsr
    mov eax, 0x80000011
    mov cr0, eax
    # A far jump with a 32-bit offset.
    .byte 0x66, 0xea
    .long start_processor
    .word {KERNEL_CODE}
.org trampoline_start + {TRAMPOLINE_GDT}
    .word gdt_end - gdt - 1
    .long gdt
.code64
.global trampoline_end
trampoline_end:

# ---------------------------------------------------------------- interrupts and exceptions

# One 16-byte stub per vector leaves [error code], [vector] on the stack.
.balign 16
.global interrupt_stubs
interrupt_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    .if (vector >= {FIRST_IRQ}) && (vector < {FIRST_IRQ} + {IRQS})
    jmp interrupt
    .else
    jmp fault
    .endif
    .set vector, vector + 1
.endr

# An interrupt that a program expects: note the time, count it, end it.
interrupt:
    push rax
    push rcx
    push rdx
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov rcx, [rsp + 24]
    sub ecx, {FIRST_IRQ}
    shl ecx, 4
    mov rdx, rsp
    and rdx, -{CPU_BLOCK_BYTES}
    add rdx, rcx
    mov [rdx + {CPU_IRQS}], rax
    inc qword ptr [rdx + {CPU_IRQS} + 8]
    mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

# Anything else: keep what is known about it and let ring 3 report it. A fault while reporting ends the run at once.
fault:
    mov rbp, rsp
    and rbp, -{CPU_BLOCK_BYTES}
    cmp qword ptr [rbp + {CPU_FAULTED}], 0
    jne 1f
    mov qword ptr [rbp + {CPU_FAULTED}], 1
    pop rax
    mov [rbp + {CPU_FAULT}], rax
    pop rax
    mov [rbp + {CPU_FAULT} + 8], rax
    pop rax
    mov [rbp + {CPU_FAULT} + 16], rax
    pop rax
    mov [rbp + {CPU_FAULT} + 24], rax
    mov rax, cr2
    mov [rbp + {CPU_FAULT} + 32], rax
    mov rdi, rbp
    lea rax, [rip + ring3_fault]
    jmp enter_ring3
1:
    mov edx, {PORT_END}
    mov eax, {END_NESTED_FAULT}
    out dx, eax
    jmp park

# Service for ring 3, by `ud2` with rax = {SERVICE} + number:
#   0: rax = MSR rcx                      clobbers rdx
#   1: MSR rcx = rdi                      clobbers rax, rdx
#   2: halt, unless [rdi] != rsi already  (no wake-up is lost: interrupts are off between look and halt)
#   3: never come back, but go on taking interrupts: others may count on it
# `ud2` is a fault: one that is on its way when the host saves the processor's state is kept or happens again. An `int3`
# is neither if KVM emulates it, and a KVM that emulates has no `int n` and no `syscall`.
.global service
service:
    sub rax, {SERVICE}
    cmp rax, 3
    ja not_a_service
    add qword ptr [rsp], 2
    cmp eax, 1
    jb 0f
    je 1f
    cmp eax, 2
    je 2f
3:
    sti
    hlt
    jmp 3b
not_a_service:
    push 0
    push {SERVICE_VECTOR}
    jmp fault
park:
    cli
    hlt
    jmp park
0:
    rdmsr
    shl rdx, 32
    or rax, rdx
    iretq
1:
    mov rax, rdi
    mov rdx, rdi
    shr rdx, 32
    wrmsr
    iretq
2:
    cmp [rdi], rsi
    jne 4f
    sti
    hlt
4:
    iretq

# ---------------------------------------------------------------- tables

.section .data.tables, "aw"

# Every byte of the first 4 GiB one to one, in 2 MiB pages, open to ring 3 (present, writable, user).
.balign 4096
pml4:
    .quad pdpt + 7
    .fill 511, 8, 0
.balign 4096
pdpt:
    .quad page_directories + 0x0007
    .quad page_directories + 0x1007
    .quad page_directories + 0x2007
    .quad page_directories + 0x3007
    .fill 508, 8, 0
.balign 4096
page_directories:
.set frame, 0
.rept 2048
    .quad frame + 0x87
    .set frame, frame + 0x200000
.endr

# Descriptors with the accessed bit set, so that no processor has to write them.
.balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
gdt_tasks:
    .fill {MAX_CPUS} * 2, 8, 0
gdt_end:

# One task state per processor. The port bitmap follows the 104 architectural bytes: a clear bit is a port that ring 3
# may use. Ports at and beyond the end are forbidden. The byte of ones behind the bitmap is required (SDM Vol. 1 section 19.5.2).
.balign 16
task_states:
.rept {MAX_CPUS}
    .fill 102, 1, 0
    .word 104
    .fill {PORTS} / 8, 1, 0
    .byte 0xff
    .balign 1 << {TSS_SHIFT}, 0
.endr

.balign 8
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
.balign 8
idt_pointer:
    .word 256 * 16 - 1
    .quad IDT
