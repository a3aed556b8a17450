# The model test: a CRM, an account at Mailchimp and an engine, to which thousands of random steps happen (Steps.pm), in bursts.
# After each burst the troubles end, everything comes to rest, and what is at Mailchimp is held against what plain SQL over the
# CRM says must be there (test/model/truth.sql, compare.sql).
#
#   my $model = McModel->new('name', 17);    # the seed
#   $model->burst(1 .. 100);                 # dies with what differs, the seed, and the last steps

package McModel;

use strict;
use warnings;
use Cpanel::JSON::XS ();
use JSON::PP;
use McModel::Draw;
use McModel::Session;
use McModel::Steps;
use McTest;
use PostgreSQL::Test::Utils qw(slurp_file);
use Time::HiRes ();

my $json = Cpanel::JSON::XS->new->utf8->canonical->allow_nonref;

# what the model of audiences in both directions (Both.pm) has others of
sub audiences
{
	return ([ 'people', 'main', 'Customers', 'candidate', 'active', 'archive', 'opt_out' ],
		[ 'clients', 'second', 'Clients', 'client', q{kind = 'customer'}, 'unsubscribe', 'inactive' ],
		[ 'news', 'main', 'News', 'candidate', 'level >= 2', 'archive', 'ignore' ]);
}
sub connections { return ('main', 'second') }
sub files { return qw(crm truth member compare) }
sub step { my ($self, $draw) = @_; McModel::Steps::one($self, $draw); $self->note }
sub rest { return 'true' }
sub differences { return 'model.differences()' }
sub note { my ($self) = @_; $self->{ann}->query('SELECT model.note()') }

sub new
{
	my ($class, $name, $seed) = @_;
	my $sim = McTest::Simulator->start;
	my $node = McTest::Node->start($name, conf => "mailchimp_sync.databases = 'postgres'\nmailchimp_sync.request_timeout = '2s'\nmailchimp_sync.max_response = '1MB'\n");
	my $self = bless { seed => $seed, sim => $sim, node => $node, later => 0, log => [], changes => 0, doing => 'the start' }, $class;

	$self->accounts;
	$node->role('ann', level => 'admin');
	$node->role('rita', level => 'reader');
	my $url = $sim->url;
	$node->query(join ';', 'CREATE SCHEMA crm AUTHORIZATION ann', 'GRANT CREATE ON DATABASE postgres TO ann',
		map { ("CREATE SERVER $_ FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '$url')", "ALTER SERVER $_ OWNER TO ann") } $self->connections);
	my $session = sub { my ($user, $first) = @_; McModel::Session->new($node, $user, first => $first) };
	# a row that the open transaction has locked is left alone
	$self->{ann} = $session->('ann', q{SET client_min_messages = warning; SET jit = off; SET lock_timeout = '200ms'});
	$self->{slow} = $session->('ann', q{SET client_min_messages = warning; SET jit = off; SET lock_timeout = '200ms'});
	$self->{run} = $session->('ann', 'SET client_min_messages = warning');
	$self->{rita} = $session->('rita', '');
	$self->{super} = $session->('postgres', 'SET client_min_messages = warning');
	$self->{super}{user} = $node->query('SELECT current_user');

	$self->{ann}->query(join '; ', map { "SELECT mc_connect('$_', '$_-us1')" } $self->connections);
	$self->{ann}->query(slurp_file("$McTest::root/test/model/$_.sql")) for $self->files;
	$self->audience(@$_) for $self->audiences;
	$self->ready;
	return $self;
}

sub ready
{
	my ($self) = @_;
	$self->{ann}->query(q{SELECT mc_add_audience_source('news', 'client', 'true'); SELECT model.add_source('news', 'client', 'true')});
	$self->{ann}->query('SELECT model.note(); SELECT model.forget_seen()');
}

sub accounts
{
	my ($self) = @_;
	my @fields = ({ tag => 'FNAME' }, { tag => 'LNAME' }, { tag => 'BORN', name => 'Born', type => 'date' });
	my $sim = $self->{sim};
	my $main = $sim->post('/_sim/accounts', { key => 'main-us1', account_name => 'Main', lists => [ map { { name => $_, merge_fields => \@fields } } 'Customers', 'News' ] });
	my $second = $sim->post('/_sim/accounts', { key => 'second-us1', account_name => 'Second', lists => [ { name => 'Clients', merge_fields => \@fields } ] });
	$self->{lists} = { map { $_->{name} => $_->{id} } @{ $main->{lists} }, @{ $second->{lists} } };
	$sim->post('/_sim/config', { history => JSON::PP::true });
}

sub audience
{
	my ($self, $audience, $connection, $list, $source, $rule, $on_leave, $on_unsubscribe) = @_;
	my $id = $self->{list_of}{$audience} = $self->{lists}{$list};
	$self->{ann}->query("SELECT mc_create_audience('$audience', '$connection', '$list', '$source', \$r\$$rule\$r\$, on_leave => '$on_leave',
			on_unsubscribe => '$on_unsubscribe');
		INSERT INTO model.audience VALUES ('$audience', '$connection', '$id', '$on_leave', '$on_unsubscribe', false);
		INSERT INTO model.audience_source VALUES ('$audience', '$source', 1, \$r\$$rule\$r\$);
		SELECT mc_sync_audience('$audience')");
}

# ---- what steps do

sub say
{
	my ($self, $text) = @_;
	$self->{begin} //= Time::HiRes::time();
	push @{ $self->{log} }, sprintf '%7.2f %4d %s: %s', Time::HiRes::time() - $self->{begin}, $self->{step} // 0, $self->{doing}, $text;
}

# A change in the CRM, or a call; a row that the open transaction has locked, or a server that has just gone, stops it.
sub sql
{
	my ($self, $sql) = @_;
	$self->say($sql);
	my $session = $self->{ann};
	return if defined $session->try($sql);
	my $error = $session->{error};
	$session->query('ROLLBACK');
	die "$error\n" if $error !~ /lock timeout|deadlock detected|connection is lost/;
	$self->{log}[-1] .= '   -- ' . $error =~ s/\n.*//sr;
}

sub slow
{
	my ($self, $sql) = @_;
	return if $self->{open};
	$self->say($sql);
	if (defined $self->{slow}->try("BEGIN; $sql")) { $self->{open} = 1 }
	else { $self->{slow}->query('ROLLBACK') }
}

sub slow_end
{
	my ($self, $how) = @_;
	return unless delete $self->{open};
	$self->say($how);
	$self->{slow}->try($how);
}

# Somebody does something at Mailchimp; to a member that is not there nothing can be done.
sub act
{
	my ($self, $audience, $email, $action, $more) = @_;
	my $list = $self->{list_of}{$audience};
	my $raw = eval { $self->{sim}->post('/_sim/act', { list => $list, email => $email, action => $action, %$more }) };
	return unless $raw;
	$self->say("$action $email in $audience " . $json->encode($more));
	return $self->{ann}->query("DELETE FROM model.before WHERE list = '$list' AND address = '$email'") unless $raw->{web_id};
	my $changed = "SELECT model.act('$list', \$raw\$" . $json->encode($raw) . '$raw$)';
	my $member = "'$list', $raw->{web_id}";
	$changed .= "; INSERT INTO model.edited VALUES ($member, 'LNAME', '$more->{merge_fields}{LNAME}')" if $more->{merge_fields};
	$changed .= sprintf "; DELETE FROM model.hand_tag WHERE (list, web_id, tag) = (%s, '%s'); INSERT INTO model.hand_tag VALUES (%1\$s, '%2\$s', %s)",
	  $member, $_, $action eq 'untag' ? 'false' : 'true' for $more->{tag} // (), @{ $more->{tags} // [] };
	$self->{ann}->query($changed);
}

sub control
{
	my ($self, $what, $body) = @_;
	$self->say($json->encode($body));
	$self->{sim}->post("/_sim/$what", $body);
}

sub later
{
	my ($self, $seconds) = @_;
	# Mailchimp ends every request within two minutes, by whatever clock
	McTest::poll('the requests that are open', sub { $self->{sim}->release; !grep { $_->{now} } values %{ $self->{sim}->get('/_sim/open')->{users} } })
	  if $seconds > 100;
	$self->say("$seconds s later");
	$self->{later} += $seconds;
	$self->{sim}->post('/_sim/clock', { advance => $seconds });
	$self->super("ALTER SYSTEM SET mailchimp_sync.clock_offset = '$self->{later} s'");
	$self->super('SELECT pg_reload_conf()');
	McTest::poll('the clock', sub { $self->super("SELECT current_setting('mailchimp_sync.clock_offset')::interval = interval '$self->{later} s'") eq 't' });
}

sub has_source
{
	my ($self, $audience, $source) = @_;
	return $self->{ann}->query("SELECT count(*) FROM model.audience_source WHERE audience = '$audience' AND source = '$source'");
}

# Until Mailchimp is asked for something; not for long, there may be nothing to ask.
sub wait_request
{
	my ($self) = @_;
	$self->say('');
	my $last = $self->{sim}->get('/_sim/journal', since => 1_000_000_000)->{last};
	$self->{sim}->get('/_sim/journal', since => $last, wait => 0.1);
}

sub super { my ($self, $sql) = @_; return $self->{super}->query($sql) }

sub kill_worker
{
	my ($self) = @_;
	my $pid = $self->super("SELECT coalesce((SELECT pid FROM pg_stat_activity WHERE backend_type = 'mailchimp_sync worker'), 0)");
	return unless $pid;
	$self->say("kill -9 $pid");
	kill 'KILL', $pid;
	McTest::poll('the end of the worker', sub { !kill 0, $pid });
	$self->wait_server;
}

sub stop_server
{
	my ($self) = @_;
	$self->say('pg_ctl stop -m immediate');
	$self->{node}->stop('immediate');
	$self->{node}->start;
	$self->wait_server;
}

# All sessions are gone; so is what was not committed.
sub wait_server
{
	my ($self) = @_;
	$_->quit for @$self{qw(ann slow run rita super)};
	delete $self->{open};
	McTest::poll('the server', sub { defined $self->{super}->try('SELECT 1') });
}

sub stop_worker { my ($self) = @_; $self->say(''); $self->{ann}->query('SELECT mc_stop_worker()'); $self->{stopped} = 1 }
sub start_worker { my ($self) = @_; $self->say(''); $self->{ann}->query('SELECT mc_start_worker()'); $self->{stopped} = 0 }

sub run
{
	my ($self) = @_;
	return if $self->{run}->is_busy;
	$self->say('');
	$self->{run}->begin('CALL mc_run()');
}

# A mc_run that began after the worker was stopped may wait for the end of that one's requests, by a clock that stands still.
sub end_run
{
	my ($self) = @_;
	$self->{run}->read(0.5) or $self->super("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL mc_run()%' AND state = 'active'");
	$self->{run}->finish;
}

sub resume
{
	my ($self) = @_;
	$self->say('');
	$self->{ann}->query(join '; ', (map { "SELECT mc_resume('$_')" } $self->connections), map { "SELECT mc_resume('$_->[1]', '$_->[0]')" } $self->audiences);
}

# ---- bursts

sub burst
{
	my ($self, @steps) = @_;
	my $first = @{ $self->{log} };
	for my $step (@steps)
	{
		$self->{step} = $step;
		eval { $self->step(McModel::Draw->new($self->{seed}, $step)); $self->look; 1 }
		  or die $self->report("step $step, $self->{doing}: $@");
	}
	eval { $self->heal; 1 } or die $self->report("it does not come to rest: $@");
	my $found = eval { $self->compare } // die $self->report("the comparison: $@");
	die $self->report("this differs:\n$found") if $found;
}

# Another session sees states that add up at any moment (N8).
sub look
{
	my ($self) = @_;
	my $wrong = $self->{rita}->try('SELECT * FROM mc_audience_status s
		WHERE contacts <> in_sync + pending + refused + conflict + opted_out + inactive + not_linked + not_allowed + outside');
	die "the states do not add up: $wrong\n" if $wrong;
}

# All troubles end, and everything comes to rest.
sub heal
{
	my ($self) = @_;
	my $sim = $self->{sim};
	$self->{doing} = 'healing';
	$self->slow_end($self->{step} % 2 ? 'COMMIT' : 'ROLLBACK');
	$self->note;
	$sim->delete('/_sim/faults');
	$sim->release;
	$sim->post('/_sim/latency', { request_ms => 0 });
	$sim->post('/_sim/limit', { per_user => 10 });
	McTest::poll('the requests that are open', sub { $sim->release; !grep { $_->{now} } values %{ $sim->get('/_sim/open')->{users} } });
	$self->resume;
	$self->end_run;
	$self->start_worker if $self->{stopped};
	# what was refused by a fault
	$self->{ann}->query('SELECT mc_retry()');
	# ghosts end, pauses end; what Mailchimp knows is read
	for my $seconds (140, 310, 310)
	{
		$self->later($seconds);
		last if $self->is_quiet(1.5);
	}
	my $read = $self->super('SELECT mailchimp_sync.clock()');
	$self->later(620);
	for (1 .. 6)
	{
		return if $self->is_quiet(5, $read);
		$self->later(310);
	}
	die $self->super(q{SELECT string_agg(to_jsonb(c)::text, E'\n') FROM mailchimp_sync.contact c WHERE action IS NOT NULL}) . "\n"
	  . $self->super(q{SELECT string_agg(to_jsonb(f)::text, E'\n') FROM mailchimp_sync.inflight f}) . "\n"
	  . $self->super(q{SELECT string_agg(to_jsonb(f)::text, E'\n') FROM mailchimp_sync.opt_out f WHERE carried_at IS NULL}) . "\n"
	  . $self->super(q{SELECT string_agg(to_jsonb(f)::text, E'\n') FROM mc_status f}) . "\n";
}

# Has the engine nothing more to do, within so many seconds? Statuses were read after that instant.
sub is_quiet
{
	my ($self, $seconds, $read) = @_;
	my $end = Time::HiRes::time() + $seconds;
	my $unread = $read ? "OR NOT coalesce(read_at > '$read', false)" : '';
	while (Time::HiRes::time() < $end)
	{
		# N6: so many have come and gone that somebody has to say that this is meant
		$self->{ann}->query("SELECT mc_approve(audience) FROM mc_audience WHERE state = 'guard_stopped'");
		return 1 if $self->super('SELECT ' . $self->rest . " AND NOT EXISTS (SELECT FROM mailchimp_sync.contact WHERE action IS NOT NULL)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.event) AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.reading) AND NOT EXISTS (SELECT FROM mailchimp_sync.carry_target)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.opt_out WHERE carried_at IS NULL)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.audience_source WHERE compare_from IS NOT NULL)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.audience WHERE compare_asked_at IS NOT NULL $unread)") eq 't';
		Time::HiRes::sleep(0.02);
	}
	return 0;
}

# What differs, in lines; '' for nothing.
sub compare
{
	my ($self) = @_;
	my $sim = $self->{sim};
	my %lists = map { $_ => $sim->get("/_sim/lists/$_/members") } values %{ $self->{list_of} };
	my $history = $sim->get('/_sim/history', since => $self->{changes});
	$self->{changes} = $history->{last};
	$self->{ann}->query('SELECT model.load($l$' . $json->encode(\%lists) . '$l$, $l$' . $json->encode($history->{changes}) . '$l$)');
	my $found = $self->{ann}->query("SELECT concat_ws(' | ', what, audience, who, 'wanted: ' || wanted, 'found: ' || found) FROM " . $self->differences);
	return $found if $found ne '';
	$self->{ann}->query('SELECT model.compared()');
	return $self->compare_again;
}

# A full comparison of what has not changed costs no request (N5).
sub compare_again
{
	my ($self) = @_;
	my $last = $self->{sim}->get('/_sim/journal', since => 1_000_000_000)->{last};
	$self->{ann}->query(join '; ', map { "SELECT mc_sync_audience('$_->[0]')" } $self->audiences);
	$self->is_quiet($McTest::patience) or return 'a full comparison does not end';
	return join "\n", map { "a full comparison makes a request: $_->{method} $_->{path}" } grep { $_->{route} ne 'GET /lists/{list_id}/members' && !McTest::is_refresh($_) } $self->{sim}->journal(since => $last);
}

# ---- when something is wrong

sub report
{
	my ($self, $what) = @_;
	my @log = @{ $self->{log} };
	my $file = "$PostgreSQL::Test::Utils::log_path/model_$self->{seed}.txt";
	open my $out, '>', $file or die "$file: $!";
	print $out join "\n", "seed $self->{seed}: $what", $self->stories($what), 'all steps:', @log, '';
	close $out;
	splice @log, 0, @log - 30 if @log > 30;
	return join "\n", "seed $self->{seed}: $what", 'the last steps:', @log, "all steps, and what happened to whom: $file", '';
}

# Everything about the addresses and contacts that differ: what the CRM has, what requests said, what became of the members. Members
# move from address to address, so an address leads to others.
sub stories
{
	my ($self, $what) = @_;
	my (%who, %members);
	$who{ lc $1 }++ while $what =~ /([\w.+-]+@[\w.]+)/g;
	while ($what =~ /\| (candidate|client) (with space|[^ |\n]+)/g)
	{
		$who{$_}++ for split /\n/, eval { $self->super("SELECT address FROM model.had WHERE source = '$1' AND key = '$2'") } // '';
	}
	my @changes = @{ $self->{sim}->get('/_sim/history')->{changes} };
	for (1 .. 2)
	{
		for my $change (@changes)
		{
			my @addresses = map { lc } grep { defined } $change->{email}, $change->{was};
			$members{"$change->{list} $change->{web_id}"}++ if grep { $who{$_} } @addresses;
			if ($members{"$change->{list} $change->{web_id}"}) { $who{$_}++ for @addresses }
		}
	}
	return map { $self->story($_) } (sort keys %who)[ 0 .. (keys(%who) > 12 ? 11 : keys(%who) - 1) ];
}

sub story
{
	my ($self, $email) = @_;
	my $sim = $self->{sim};
	my $hash = eval { $self->super("SELECT md5('$email')") } // '';
	my @story = ("the story of $email ($hash):");
	my %changes;
	push @{ $changes{ $_->{request} // 'people' } }, $_ for grep { lc($_->{email}) eq $email || lc($_->{was} // '') eq $email } @{ $sim->get('/_sim/history')->{changes} };
	push @story, map { "  people: $_->{list} $_->{web_id} " . ($_->{from} // 'none') . ' -> ' . ($_->{to} // 'none') . " at $_->{at}" } @{ $changes{people} // [] };
	for my $entry ($sim->journal)
	{
		my @members = grep { lc($_->{email_address} =~ s/^ +| +$//gr) eq $email } ref $entry->{body} ? @{ $entry->{body}{members} // [] } : ();
		my $about = ref $entry->{body} && lc($entry->{body}{email_address} // '') eq $email;
		next unless @members || $about || $entry->{path} =~ /$hash/ || $changes{ $entry->{n} };
		push @story, sprintf '  %d %s %s %s -> %s%s%s: %s', @$entry{qw(n at method path)}, $entry->{status} // '-', $entry->{fault} ? " $entry->{fault}" : '',
		  $entry->{held} ? " held $entry->{held}" : '', $json->encode(@members ? \@members : $entry->{body} // '');
		push @story, map { "      $_->{web_id} " . ($_->{was} ? "$_->{was} " : '') . ($_->{from} // 'none') . ' -> ' . ($_->{to} // 'none') } @{ $changes{ $entry->{n} } // [] };
	}
	push @story, '  ' . (eval { $self->super("SELECT string_agg(concat_ws(' ', to_jsonb(c)), E'\n  ') FROM mailchimp_sync.contact c
		WHERE '$hash' IN (c.email_hash, c.member_hash)") } // ''), '  ' . (eval { $self->super("SELECT string_agg(concat_ws(' ', to_jsonb(c)), E'\n  ')
		FROM mailchimp_sync.member c WHERE email_hash = '$hash'") } // ''), '  ' . (eval { $self->super("SELECT string_agg(concat_ws(' ', to_jsonb(c)), E'\n  ')
		FROM mailchimp_sync.opt_out c WHERE email_hash = '$hash'") } // ''), '  ' . (eval { $self->super("SELECT string_agg(concat_ws(' ', to_jsonb(c)), E'\n  ')
		FROM model.person c WHERE address = '$email'") } // '');
	return @story;
}

1;
