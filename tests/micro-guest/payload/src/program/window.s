# One window of the self-check: every register that a program can use holds a known value while a loop runs that changes three of
# them in a known way and no flag. gs points at the window's block, fs at a block whose first word is added up.

.text
.global self_check_window
self_check_window:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov gs:[{SAVED_RSP}], rsp
    ldmxcsr gs:[{MXCSR}]
    fldcw gs:[{FCW}]
    cmp qword ptr gs:[{AVX}], 0
    je 1f
.set register, 0
.irp name, ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14, ymm15
    vmovdqu \name, gs:[{VECTORS} + 32 * register]
    .set register, register + 1
.endr
    jmp 2f
1:
.set register, 0
.irp name, xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14, xmm15
    movdqu \name, gs:[{VECTORS} + 32 * register]
    .set register, register + 1
.endr
2:
    push qword ptr gs:[{FLAGS}]
    popfq
.set register, 0
.irp name, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    mov \name, gs:[{REGISTERS} + 8 * register]
    .set register, register + 1
.endr

.global self_check_window_start
self_check_window_start:
    lea rcx, [rcx - 1]
    mov rdx, fs:[0]
    lea rax, [rax + rdx]
    lea rax, [rax + rbx]
    jrcxz self_check_window_end
    jmp self_check_window_start
.global self_check_window_end
self_check_window_end:

.set register, 0
.irp name, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    mov gs:[{REGISTERS_AFTER} + 8 * register], \name
    .set register, register + 1
.endr
    mov gs:[{RSP_AFTER}], rsp
    mov rsp, gs:[{SAVED_RSP}]
    pushfq
    pop qword ptr gs:[{FLAGS_AFTER}]
    cld
    cmp qword ptr gs:[{AVX}], 0
    je 3f
.set register, 0
.irp name, ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14, ymm15
    vmovdqu gs:[{VECTORS_AFTER} + 32 * register], \name
    .set register, register + 1
.endr
    vzeroupper
    jmp 4f
3:
.set register, 0
.irp name, xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14, xmm15
    movdqu gs:[{VECTORS_AFTER} + 32 * register], \name
    .set register, register + 1
.endr
4:
    stmxcsr gs:[{MXCSR_AFTER}]
    fnstcw gs:[{FCW_AFTER}]
    ldmxcsr gs:[{DEFAULT_MXCSR}]
    fldcw gs:[{DEFAULT_FCW}]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
